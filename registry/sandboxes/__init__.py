"""Disposable processes, and the tasks that run in them: the science, on strangers' bytes."""

"""Checking: whether a stranger's patch is sound, keeps its claims, and composes to finite weights."""

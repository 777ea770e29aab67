"""Pulling: a model's files into a folder, by download, composed here, or out of a delta."""

"""Deltas: the exact bits that differ between two revisions of one model, made and applied."""

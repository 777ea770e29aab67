"""Diffing: from two checkpoints to a patch, by pairing, masks, changes and adapters."""

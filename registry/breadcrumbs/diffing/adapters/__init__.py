"""Adapters, read as the tuned checkpoints that they make of their base: their settings, formats, methods and parts."""

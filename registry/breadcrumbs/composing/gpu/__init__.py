"""Composing on a GPU: the engine, and the memory that it fills there. Importing this needs torch."""

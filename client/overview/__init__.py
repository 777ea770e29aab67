"""Overviews: the state of this installation, and of a pulled folder."""

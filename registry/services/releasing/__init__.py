"""Releases, channels, and lineage."""

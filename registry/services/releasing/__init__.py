"""Releases, their publishing, channels, and lineage."""

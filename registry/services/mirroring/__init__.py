"""Mirroring: what a registry gives to others that follow it, and what one that follows keeps."""

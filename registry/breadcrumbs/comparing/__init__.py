"""Conflicts between patches, and blame for one weight."""

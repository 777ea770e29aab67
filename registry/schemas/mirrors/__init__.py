"""Schemas of what a registry that follows another one asks it for."""

"""Addresses as people type them, and results as they see them."""

"""Addresses as people type them, and results as people see them."""

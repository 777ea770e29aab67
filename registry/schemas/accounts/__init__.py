"""Schemas of accounts: joining, sessions, publishers."""

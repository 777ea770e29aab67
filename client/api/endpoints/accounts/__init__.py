"""Endpoints of accounts: joining, sessions, publishers."""

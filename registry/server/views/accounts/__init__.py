"""Views of accounts: joining, sessions, publishers."""

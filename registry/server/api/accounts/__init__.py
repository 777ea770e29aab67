"""Routes of accounts: joining, sessions, publishers."""

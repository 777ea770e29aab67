"""Job pages and their live progress."""

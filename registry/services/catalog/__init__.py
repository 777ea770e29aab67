"""Models, their bases, and patches."""

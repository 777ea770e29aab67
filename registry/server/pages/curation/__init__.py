"""Pages of patches under review, and the inbox."""

"""Pages of conflicts between patches."""

"""Reviews, evaluations, and the inbox."""

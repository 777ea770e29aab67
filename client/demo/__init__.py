"""`crumb demo`: train, push, compose and pull, in about a minute."""

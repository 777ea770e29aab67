"""`crumb demo`: train, push, tune, compose and pull, in about a minute."""

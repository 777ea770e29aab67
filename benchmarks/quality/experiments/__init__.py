"""The experiments: what is composed, at which settings, and how it scores."""

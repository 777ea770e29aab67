"""Everything that knows what a request is."""

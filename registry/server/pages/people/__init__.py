"""Pages of people: sign-in, tokens, namespaces."""

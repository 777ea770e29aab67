"""Users, namespaces, tokens, roles, and the rules for who may do what."""

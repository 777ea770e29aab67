"""The commands of `crumb`; each parses, calls one action or endpoint, and prints."""

"""The commands of `crumb`, one file per kind of thing; each parses, calls once, and prints."""

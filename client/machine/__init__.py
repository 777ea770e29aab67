"""This machine's files: model folders, locks, configuration, sources, signatures."""

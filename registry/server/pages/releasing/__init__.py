"""Pages of releases and channels."""

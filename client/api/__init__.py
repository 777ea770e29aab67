"""The HTTP client: one method for each endpoint."""

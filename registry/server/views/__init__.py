"""Views: rows to the shapes of the API."""

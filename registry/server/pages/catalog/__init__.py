"""Pages of models and their settings."""

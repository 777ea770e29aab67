"""Routes for the Hub's clients."""

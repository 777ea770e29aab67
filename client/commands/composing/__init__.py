"""Commands for recipes, pulls, conflicts, and local work."""

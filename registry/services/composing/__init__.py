"""Recipes, compositions, snapshots, previews, and conflicts between patches."""

"""Recipes to and from mergekit."""

"""Pages of recipes: the editor, previews, compositions."""

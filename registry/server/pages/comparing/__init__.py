"""Pages of conflict analysis: where the patches of a model meet."""

"""Commands for pulls, conflicts, trials, recipes, and models on this machine."""

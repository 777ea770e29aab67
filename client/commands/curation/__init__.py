"""Commands for patches and reviews."""

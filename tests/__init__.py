"""Tests, in rooms named like those of the source; `support` holds what they share."""

"""How fast, how small: one command per comparison, `python -m benchmarks <name>`; never part of the tests."""

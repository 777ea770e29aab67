"""How well composed models do: the experiments on real data, their results, and the report of them."""

"""Do the registry's conflict measures tell what is lost when two patches are composed?

Of every two tasks: their patches composed alone and together, at the default alpha and at 1. The loss is what the two
tasks lose, normalised, when the other patch is added. Measures are those that the registry tells.
"""

from itertools import combinations
from typing import Any

import numpy as np

from benchmarks.quality.experiments.bench import DEFAULT, Bench


def run(bench: Bench, alphas: list[str], measures: dict[tuple[str, str], dict[str, float]]) -> list[dict[str, Any]]:
    """Return loss and measures of every pair of tasks.

    Args:
        bench: The world.
        alphas: Which alphas to compose at.
        measures: What the registry says of each pair, the task that comes first in name order first.
    """
    found = []
    for alpha in alphas:
        setting = DEFAULT.at(alpha)
        alone = {task: bench.evaluate(setting, [task], "test") for task in bench.kind.tasks}
        for first, second in combinations(bench.kind.tasks, 2):
            weights = bench.merge(setting, [first, second])
            together = [bench.normalised(weights, [task], "test") for task in (first, second)]
            lost = np.mean([alone[first] - together[0], alone[second] - together[1]])
            known = measures[min(first, second), max(first, second)]
            found.append({"alpha": alpha, "first": first, "second": second, "loss": float(lost), **known})
    return found

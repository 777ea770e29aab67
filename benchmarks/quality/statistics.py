"""Means with intervals, and rank correlations with intervals.

The interval of a mean over orders is Student's 95 % interval. Orders of one world share its models, and the last number
of tasks is the same set in every order: there, only what was chosen differs between the orders of a world.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

REPEATS = 500


def mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean, and half of its 95 % interval; 0 where there is one value."""
    found = np.asarray(values, np.float64)
    if len(found) < 2:
        return float(found.mean()), 0.0
    half = stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found))
    return float(found.mean()), float(half)


def correlation(
    worlds: Sequence[Sequence[Mapping[str, object]]], measure: str, loss: str
) -> tuple[float, float, float]:
    """Return Spearman's rank correlation over pairs of tasks, the mean of the worlds', and its 95 % interval.

    The interval is of a bootstrap over tasks, since the pairs of one task depend on each other. A task that is drawn
    twice counts twice, but makes no pair with itself.

    Args:
        worlds: The pairs of each world; each has `first`, `second` and numbers.
        measure, loss: What is correlated.
    """

    def rank(draw: Callable[[list[str]], Sequence[str]]) -> float:
        found = []
        for pairs in worlds:
            tasks = sorted({str(pair[side]) for pair in pairs for side in ("first", "second")})
            drawn = list(draw(tasks))
            times = {task: drawn.count(task) for task in tasks}
            counts = [times[str(pair["first"])] * times[str(pair["second"])] for pair in pairs]
            columns = [np.repeat([float(pair[name]) for pair in pairs], counts) for name in (measure, loss)]  # type: ignore[arg-type]
            if len(columns[0]) > 2 and all(len(set(column)) > 1 for column in columns):
                found.append(float(stats.spearmanr(*columns).statistic))
        return float(np.mean(found)) if found else float("nan")

    random = np.random.default_rng(0)
    drawn = [rank(lambda tasks: random.choice(tasks, len(tasks)).tolist()) for _ in range(REPEATS)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return rank(list), float(low), float(high)

"""Values of alpha that are tried: grids of equal ratios, which go on past an edge for as long as it wins."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST, MOST = 0.01, 40.0
"""No grid goes on beyond these."""

RATIO = 1.3
"""Of the fine grid, whose values have numbers: number 0 is 1."""

Score = Callable[[str], float]


def extend(alphas: Sequence[str], score: Score) -> dict[str, float]:
    """Score the values of a grid, and further ones in the same ratio while the best is at an edge.

    Args:
        alphas: At least two decimals, ascending.
        score: What each of them is worth.

    Returns:
        The scores, by alpha, ascending.
    """
    found = {alpha: score(alpha) for alpha in alphas}
    while (alpha := beyond(found)) is not None:
        found[alpha] = score(alpha)
    return ascending(found)


def beyond(scores: Mapping[str, float]) -> str | None:
    """Return the next alpha to try past the edge that is better than all others; None when neither is."""
    known = ascending(scores)
    grid, values = list(known), list(known.values())
    if values[-1] > max(values[:-1]):
        further = float(grid[-1]) ** 2 / float(grid[-2])
    elif values[0] > max(values[1:]):
        further = float(grid[0]) ** 2 / float(grid[1])
    else:
        return None
    return f"{further:.2g}" if LEAST <= further <= MOST else None


def ascending(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores by alpha, the smallest alpha first."""
    return {alpha: scores[alpha] for alpha in sorted(scores, key=float)}


def fine(number: int) -> str:
    """Return a value of the fine grid, in three digits."""
    return f"{RATIO**number:.3g}"


def number(alpha: float) -> int:
    """Return the number of the nearest value of the fine grid."""
    return round(math.log(alpha) / math.log(RATIO))


def search(score: Score, low: float, high: float) -> dict[str, float]:
    """Look for the best value of the fine grid: every second one first, then those beside the best.

    Each edge goes on while it is better than the value next to it, even where the best is elsewhere: a hill that is
    higher by chance does not hide the other one.

    Args:
        score: What a value is worth.
        low, high: Where to begin: every second value from one to the other.

    Returns:
        The scores of what was tried, by alpha, ascending.
    """
    first = number(low)
    places = list(range(first, max(number(high), first + 2) + 1, 2))
    if places[-1] < number(high):
        places.append(places[-1] + 2)
    found = {place: score(fine(place)) for place in places}
    while True:
        bottom, top = min(found), max(found)
        if found[top] > found[top - 2] and RATIO ** (top + 2) <= MOST:
            found[top + 2] = score(fine(top + 2))
        elif found[bottom] > found[bottom + 2] and RATIO ** (bottom - 2) >= LEAST:
            found[bottom - 2] = score(fine(bottom - 2))
        else:
            break
    best = max(sorted(found), key=found.__getitem__)
    for place in (best - 1, best + 1):
        if LEAST <= RATIO**place <= MOST:
            found[place] = score(fine(place))
    return {fine(place): found[place] for place in sorted(found)}


def best(scores: Mapping[str, float]) -> str:
    """Return the alpha with the best score; of equals the middle one, so that a plateau has no favoured side."""
    top = max(scores.values())
    equal = [alpha for alpha in ascending(scores) if scores[alpha] == top]
    return equal[(len(equal) - 1) // 2]


def between(scores: Mapping[str, float], alphas: ArrayLike) -> NDArray[np.float64]:
    """Return the scores at alphas, on straight lines over log(alpha) between those tried; past an edge, the edge's."""
    known = ascending(scores)
    return np.interp(np.log(alphas), [math.log(float(alpha)) for alpha in known], list(known.values()))


def inside(scores: Iterable[str], alpha: float) -> bool:
    """Say whether an alpha is within those tried."""
    tried = [float(known) for known in scores]
    return min(tried) <= alpha <= max(tried)

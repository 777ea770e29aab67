"""Conflict metrics: numbers of a pair of patches, with the words that explain them, for charts and tables.

A metric is computed from sums that add up, so the number of a layer follows from the sums of its tensors.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry import schemas
from registry.server.pages.comparing import layers

Grid = tuple[list[str], list[str], list[list[float | None]]]


@dataclass(frozen=True)
class ConflictMetric:
    """One number of a pair of patches.

    Args:
        title: In a few words.
        meaning: What it means, in a sentence.
        unit: Of the number.
        sums: The sums that it is computed from, fields of `schemas.Overlap`.
        formula: From those sums to the number; None where there is none.
        low: Where its colours begin.
        high: Where its colours end; at the greatest value if None.
        diverging: Whether it lies on both sides of zero.
        digits: Decimals to show.
    """

    title: str
    meaning: str
    unit: str
    sums: tuple[str, ...]
    formula: Callable[..., float | None]
    low: float = 0.0
    high: float | None = None
    diverging: bool = False
    digits: int = 0

    def value(self, overlap: schemas.Overlap) -> float | None:
        """Return the number of a pair."""
        return self.formula(*(getattr(overlap, name) for name in self.sums))


def ratio(part: float, whole: float) -> float | None:
    """Return one number over another."""
    return part / whole if whole else None


def percentage(part: float, whole: float) -> float | None:
    """Return one number in percent of another."""
    return 100 * part / whole if whole else None


def cosine(dot: float, first: float, second: float) -> float | None:
    """Return the cosine of an angle, from a product and two sums of squares."""
    return dot / (math.sqrt(first) * math.sqrt(second)) if first and second else None


def cancellation(left: float, first: float, second: float) -> float | None:
    """Return how much of two sums is lost when they are added, in percent."""
    return max(0.0, 100 * (1 - left / (first + second))) if first + second else None


METRICS = {
    "sign": ConflictMetric(
        "Opposed signs",
        "The share of the weights changed by both that they push in opposite directions; chance alone gives half.",
        "%",
        ("opposed", "overlap"),
        percentage,
        high=100,
    ),
    "overlap": ConflictMetric(
        "Overlap against chance",
        "The number of weights changed by both, over the number that two patches of this density share by chance.",
        "×",
        ("overlap", "expected"),
        ratio,
        digits=2,
    ),
    "cosine": ConflictMetric(
        "Cosine",
        "Whether they pull the same way on the whole: 1 is the same direction, 0 unrelated, −1 the opposite.",
        "",
        ("dot", "first_squares", "second_squares"),
        cosine,
        low=-1,
        high=1,
        diverging=True,
        digits=2,
    ),
    "cancellation": ConflictMetric(
        "Cancellation",
        "How much of the weights changed by both is lost when they are added.",
        "%",
        ("abs_sum", "first_l1", "second_l1"),
        cancellation,
        digits=1,
    ),
}


def by_layer(metric: ConflictMetric, tensors: Mapping[str, schemas.Overlap]) -> Grid:
    """Return a metric by layer and projection."""
    grids = [layers.grid({name: getattr(overlap, part) for name, overlap in tensors.items()}) for part in metric.sums]
    rows, columns, first = grids[0]
    cells = [
        [
            None if first[row][column] is None else metric.formula(*(cells[row][column] for _, _, cells in grids))
            for column in range(len(columns))
        ]
        for row in range(len(rows))
    ]
    return rows, columns, cells


def matrix(metric: ConflictMetric, conflicts: schemas.Conflicts) -> list[list[float | None]]:
    """Return a metric of each patch with each, of shape (patches, patches); None where it is not known."""
    place = {(patch.number, patch.revision): at for at, patch in enumerate(conflicts.patches)}
    cells: list[list[float | None]] = [[None] * len(place) for _ in place]
    for pair in conflicts.pairs:
        one, two = (place[patch.number, patch.revision] for patch in (pair.first, pair.second))
        cells[one][two] = cells[two][one] = metric.value(pair.whole)
    return cells

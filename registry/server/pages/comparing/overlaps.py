"""What is told of where patches meet: each measure with its words, as numbers for charts and for tables.

Measures are taken of sums, which add up: those of a layer are those of its tensors, added.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from registry import schemas
from registry.server.pages.comparing import layers

Grid = tuple[list[str], list[str], list[list[float | None]]]
TENSORS, PAIRS = 20, 20  # most that are listed, the worst


@dataclass(frozen=True)
class Measure:
    """One number of a pair of patches.

    Args:
        title: In a few words.
        tells: What it means, in a sentence.
        unit: Of the number.
        parts: The sums that it is taken of.
        formula: From those to the number; None where nothing can be said.
        low: Where its colours begin.
        high: Where they end; with the greatest value when None.
        diverging: It is on either side of zero.
        digits: That are shown.
    """

    title: str
    tells: str
    unit: str
    parts: tuple[str, ...]
    formula: Callable[..., float | None]
    low: float = 0.0
    high: float | None = None
    diverging: bool = False
    digits: int = 0

    def of(self, found: schemas.Overlap) -> float | None:
        """Return the number of a pair."""
        return self.formula(*(getattr(found, part) for part in self.parts))


def ratio(part: float, whole: float) -> float | None:
    """Return one over the other."""
    return part / whole if whole else None


def percentage(part: float, whole: float) -> float | None:
    """Return one in percent of the other."""
    return 100 * part / whole if whole else None


def cosine(dot: float, first: float, second: float) -> float | None:
    """Return the cosine of an angle, from a product and two sums of squares."""
    return dot / (math.sqrt(first) * math.sqrt(second)) if first and second else None


def cancellation(left: float, first: float, second: float) -> float | None:
    """Return how much of two sums is not left, in percent."""
    return max(0.0, 100 * (1 - left / (first + second))) if first + second else None


MEASURES = {
    "sign": Measure(
        "Opposed signs",
        "Of the weights that both change, those they push in opposite directions; chance alone gives half.",
        "%",
        ("opposed", "overlap"),
        percentage,
        high=100,
    ),
    "overlap": Measure(
        "Overlap against chance",
        "How many weights both change, over what two patches of this density would share by chance: 1 is chance.",
        "×",
        ("overlap", "expected"),
        ratio,
        digits=2,
    ),
    "cosine": Measure(
        "Cosine",
        "Whether they pull the same way on the whole: 1 is the same direction, 0 none in common, −1 the opposite.",
        "",
        ("dot", "first_squares", "second_squares"),
        cosine,
        low=-1,
        high=1,
        diverging=True,
        digits=2,
    ),
    "cancellation": Measure(
        "Cancellation",
        "How much of what both change is lost when they are added.",
        "%",
        ("abs_sum", "first_l1", "second_l1"),
        cancellation,
        digits=1,
    ),
}


def by_layer(measure: Measure, tensors: Mapping[str, schemas.Overlap]) -> Grid:
    """Return a measure by layer and projection."""
    grids = [layers.grid({name: getattr(found, part) for name, found in tensors.items()}) for part in measure.parts]
    rows, columns, first = grids[0]
    cells = [
        [
            None if first[row][column] is None else measure.formula(*(cells[row][column] for _, _, cells in grids))
            for column in range(len(columns))
        ]
        for row in range(len(rows))
    ]
    return rows, columns, cells


def matrix(measure: Measure, found: schemas.Conflicts) -> list[list[float | None]]:
    """Return a measure of each patch with each, None where it is not known."""
    place = {(patch.number, patch.revision): at for at, patch in enumerate(found.patches)}
    cells: list[list[float | None]] = [[None] * len(place) for _ in place]
    for pair in found.pairs:
        one, two = (place[patch.number, patch.revision] for patch in (pair.first, pair.second))
        cells[one][two] = cells[two][one] = measure.of(pair.whole)
    return cells


def worst_tensors(tensors: Mapping[str, schemas.Overlap]) -> list[tuple[str, schemas.Overlap, float]]:
    """Return the tensors on which most is lost, each with its part of all that is lost."""
    whole = sum(found.opposed_mass for found in tensors.values())
    found = sorted(tensors.items(), key=lambda row: (-row[1].opposed_mass, row[0]))[:TENSORS]
    return [(name, row, row.opposed_mass / whole) for name, row in found if whole and row.opposed_mass]


def worst_pairs(pairs: Sequence[schemas.ConflictPair]) -> list[schemas.ConflictPair]:
    """Return the pairs of which most is lost when they are added."""
    return sorted(pairs, key=lambda pair: -(pair.whole.cancellation or 0.0))[:PAIRS]


def stacks(values: Mapping[str, Sequence[float]], count: int) -> list[tuple[str, list[float]]]:
    """Return sums by layer of `count` values that each tensor has."""
    if not values or not count:
        return []
    grids = [layers.grid({name: parts[place] for name, parts in values.items()}) for place in range(count)]
    return [
        (row, [sum(cell or 0.0 for cell in cells[at]) for _, _, cells in grids]) for at, row in enumerate(grids[0][0])
    ]


def most_touched(census: Sequence[int]) -> int:
    """Return by how many patches at most a weight is touched."""
    return max((count for count, weights in enumerate(census) if weights), default=0)


def ref(patch: schemas.PatchName) -> str:
    """Return a patch as an address names it, `3.2`."""
    return f"{patch.number}.{patch.revision}"


def label(patch: schemas.PatchName) -> str:
    """Return a patch in the fewest signs, `#3` or `#3.2`."""
    return f"#{patch.number}" if patch.revision == 1 else f"#{ref(patch)}"

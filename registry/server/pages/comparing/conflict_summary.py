"""Conflicts in short: the names of patches, the pairs and tensors to look at first, and sums by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry import schemas
from registry.server.pages.comparing import layers
from registry.server.pages.comparing.conflict_metrics import METRICS, matrix

TENSORS, PAIRS = 20, 20  # most that are listed, the worst first
WORST = 5  # pairs in the summary of a recipe
DRAWN = 16  # patches whose matrix is drawn each time somebody moves a slider


@dataclass(frozen=True)
class ConflictSummary:
    """The known conflicts of a recipe.

    Args:
        labels: `#3` for each patch.
        opposed: Of shape (patches, patches): opposed signs, in percent; empty where there are many patches.
        refs: The patches as an address names them.
        worst: Pairs of which most is lost when they are added, those first.
        known: How many pairs are known.
        missing: How many pairs are not known.
        job: The job that computes the missing pairs.
    """

    labels: Sequence[str]
    opposed: Sequence[Sequence[float | None]]
    refs: list[str]
    worst: Sequence[schemas.ConflictPair]
    known: int
    missing: int
    job: schemas.Job | None


def summarise(conflicts: schemas.Conflicts) -> ConflictSummary:
    """Return the known conflicts of a recipe in short."""
    return ConflictSummary(
        [f"#{patch.number}" for patch in conflicts.patches],
        matrix(METRICS["sign"], conflicts) if len(conflicts.patches) <= DRAWN else [],
        [ref(patch) for patch in conflicts.patches],
        worst_pairs([pair for pair in conflicts.pairs if pair.whole.cancellation], WORST),
        len(conflicts.pairs),
        conflicts.missing,
        conflicts.job,
    )


def worst_pairs(pairs: Sequence[schemas.ConflictPair], most: int = PAIRS) -> list[schemas.ConflictPair]:
    """Return the pairs of which most is lost when they are added."""
    return sorted(pairs, key=lambda pair: (-(pair.whole.cancellation or 0.0), pair.first.number, pair.second.number))[
        :most
    ]


def worst_tensors(tensors: Mapping[str, schemas.Overlap]) -> list[tuple[str, schemas.Overlap, float]]:
    """Return the tensors on which most is lost, each with its share of all that is lost."""
    whole = sum(overlap.opposed_mass for overlap in tensors.values())
    worst = sorted(tensors.items(), key=lambda row: (-row[1].opposed_mass, row[0]))[:TENSORS]
    return [(name, overlap, overlap.opposed_mass / whole) for name, overlap in worst if whole and overlap.opposed_mass]


def stacks(values: Mapping[str, Sequence[float]], count: int) -> list[tuple[str, list[float]]]:
    """Return sums by layer of the `count` values that each tensor has."""
    if not values or not count:
        return []
    grids = [layers.grid({name: parts[place] for name, parts in values.items()}) for place in range(count)]
    return [
        (row, [sum(cell or 0.0 for cell in cells[at]) for _, _, cells in grids]) for at, row in enumerate(grids[0][0])
    ]


def most_touched(census: Sequence[int]) -> int:
    """Return the largest number of patches that touch one weight."""
    return max((count for count, weights in enumerate(census) if weights), default=0)


def ref(patch: schemas.PatchName) -> str:
    """Return a patch as an address names it, `3.2`."""
    return f"{patch.number}.{patch.revision}"


def label(patch: schemas.PatchName) -> str:
    """Return a patch in the fewest signs, `#3` or `#3.2`."""
    return f"#{patch.number}" if patch.revision == 1 else f"#{ref(patch)}"

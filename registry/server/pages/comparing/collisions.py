"""Where the patches of a recipe meet, as far as that is known: a matrix, and the pairs to look at first."""

from collections.abc import Sequence
from dataclasses import dataclass

from registry import schemas

WORST = 5  # pairs that are told of
DRAWN = 16  # patches whose matrix is drawn each time somebody moves a slider


@dataclass(frozen=True)
class Collisions:
    """Known pairs of a set of patches.

    Args:
        labels: `#3` for each patch.
        opposed: Of shape (patches, patches): of the weights that two change, those they push in opposite directions,
            in percent; None where that is not known, or nothing is in common. Empty where there are many patches.
        query: What names the patches in an address.
        worst: Pairs of which most is lost when they are added, those first.
        known: How many pairs are known.
        missing: How many are not.
        job: What finds out, if something does.
    """

    labels: Sequence[str]
    opposed: Sequence[Sequence[float | None]]
    query: list[str]
    worst: Sequence[schemas.ConflictPair]
    known: int
    missing: int
    job: schemas.Job | None


def of(found: schemas.Conflicts) -> Collisions:
    """Return what is known of the pairs of some patches."""
    place = {(patch.number, patch.revision): at for at, patch in enumerate(found.patches)}
    opposed: list[list[float | None]] = [[None] * len(place) for _ in place]
    for pair in found.pairs:
        one, other = (place.get((patch.number, patch.revision)) for patch in (pair.first, pair.second))
        share = pair.whole.sign_conflict
        if one is not None and other is not None and share is not None:
            opposed[one][other] = opposed[other][one] = 100 * share
    lost = sorted(
        (pair for pair in found.pairs if pair.whole.cancellation),
        key=lambda pair: (-(pair.whole.cancellation or 0.0), pair.first.number, pair.second.number),
    )
    labels = [f"#{patch.number}" for patch in found.patches]
    named = [f"{patch.number}.{patch.revision}" for patch in found.patches]
    drawn = opposed if len(place) <= DRAWN else []
    return Collisions(labels, drawn, named, lost[:WORST], len(found.pairs), found.missing, found.job)

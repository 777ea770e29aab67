"""Alpha `auto`: the decimal that the rule of the science gives for some patches, from sums that the database has."""

import math
from collections.abc import Sequence
from itertools import combinations

from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.alpha import choose_alpha
from registry.db.tables import PatchRevision
from registry.errors import InvalidRecipe, NotCompared
from registry.services.composing import conflict_sums
from registry.services.people.access import AnyModel

MOST_PATCHES = 64  # of which all pairs can be compared


def find(
    session: Session, model: AnyModel, method: str, revisions: Sequence[PatchRevision], weights: Sequence[str]
) -> str:
    """Return alpha for patches of a model, by `choose_alpha`; weights by tensor do not count.

    Raises:
        InvalidRecipe: There are too many patches, or they cancel each other.
        NotCompared: A pair of them has not been compared yet; the message says how to have that done.
    """
    if len(revisions) > MOST_PATCHES:
        raise InvalidRecipe(f"alpha auto is for {MOST_PATCHES} patches at most; give a decimal.", field="alpha")
    by_tensor = conflict_sums.squares(session, revisions).values()
    squares = [math.fsum(parts[place] for parts in by_tensor) for place in range(len(revisions))]
    known = conflict_sums.pairs_of(session, [revision.sha256 for revision in revisions])
    dots, missing = {}, 0
    for (i, one), (j, two) in combinations(enumerate(revisions), 2):
        sums = known.get(conflict_sums.key_of(one.sha256, two.sha256))
        if sums is None:
            missing += 1
        else:
            dots[i, j] = float(sums["dot"])
    if missing:
        command = f"crumb conflicts {model.full_name} {' '.join(str(revision.patch.number) for revision in revisions)}"
        raise NotCompared(
            f"alpha auto goes by how patches overlap, and not all of these are compared yet ({missing} missing); "
            f"run `{command}` first, or give a decimal.",
            field="alpha",
        )
    return choose_alpha(method, weights, squares, dots)

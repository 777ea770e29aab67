"""Alpha `auto`: the decimal that the rule of the science gives for some patches, from numbers that the database has."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import combinations

from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.alpha import AlphaPart, choose_alpha, kept_share, rule_of
from registry.db.tables import PatchRevision
from registry.errors import BreadcrumbError, InvalidRecipe, NotCompared
from registry.services.composing import conflict_sums
from registry.services.composing.conflict_sums import Pair
from registry.services.people.access import AnyModel

MOST_PATCHES = 64  # of which all pairs can be compared


def find(
    session: Session, model: AnyModel, method: str, revisions: Sequence[PatchRevision], weights: Sequence[str]
) -> str:
    """Return alpha for patches of a model, from the sums of their pairs; errors are those of `resolve`."""
    rows = conflict_sums.pairs_of(session, [revision.sha256 for revision in revisions]) if len(revisions) > 1 else {}
    return resolve(model, method, revisions, weights, {pair: float(sums["dot"]) for pair, sums in rows.items()})


def resolve(
    model: AnyModel,
    method: str,
    revisions: Sequence[PatchRevision],
    weights: Sequence[str],
    dots: Mapping[Pair, float],
) -> str:
    """Return alpha for patches of a model, by `choose_alpha`; weights by tensor do not count.

    Args:
        model: The model.
        method: sum, ties or mean.
        revisions: The patches; those of weight 0 do not count.
        weights: A decimal for each.
        dots: For each pair that was compared the sum of the products of their values.

    Raises:
        InvalidRecipe: There are too many patches, or they cancel each other.
        NotCompared: A pair of them has not been compared yet.
    """
    counted = [(one, weight) for one, weight in zip(revisions, weights, strict=True) if Fraction(weight)]
    if len(counted) > MOST_PATCHES:
        raise InvalidRecipe(
            f"Alpha auto is for {MOST_PATCHES} patches at most, and these are {len(counted)}; give a decimal.",
            field="alpha",
        )
    pairs = {
        (i, j): conflict_sums.key_of(one.sha256, two.sha256)
        for (i, (one, _)), (j, (two, _)) in combinations(enumerate(counted), 2)
    }
    missing = sum(key not in dots for key in pairs.values())
    if missing:
        raise NotCompared(
            f"Alpha auto goes by how these patches overlap, and {missing} pair{'' if missing == 1 else 's'} of them "
            f"{'is' if missing == 1 else 'are'} not compared yet; composing them has that done first, or give a "
            "decimal.",
            field="alpha",
            model=model.full_name,
            patches=[(one.patch.number, one.number) for one, _ in counted],
        )
    parts = [_part(one, weight) for one, weight in counted]
    return choose_alpha(method, parts, {at: dots[key] for at, key in pairs.items()})


def rule_for(method: str, revisions: Sequence[PatchRevision | None], weights: Sequence[str]) -> str:
    """Return the rule of `auto` for patches, in words; those that are no longer listed count as of the default cuts."""
    return rule_of(method, [_part(one, weight) for one, weight in zip(revisions, weights, strict=True)])


def found_rule(
    session: Session,
    model: AnyModel,
    method: str,
    revisions: Sequence[PatchRevision],
    weights: Sequence[str],
    alpha: str,
) -> str | None:
    """Return the rule of `auto`, if it gives this alpha for the patches, as far as they were compared."""
    with suppress(BreadcrumbError):
        if find(session, model, method, revisions, weights) == alpha:
            return rule_for(method, revisions, weights)
    return None


def _part(revision: PatchRevision | None, weight: str) -> AlphaPart:
    if revision is None:
        return AlphaPart(weight, kept_share(), 0.0, None)
    kept = kept_share(revision.drop_bottom, revision.drop_top)
    return AlphaPart(weight, kept, (revision.norm or 0.0) ** 2, revision.base_norm)

"""Repeats: the release with which a patch is compared when it is checked, since a model may have been tuned from it."""

import uuid
from dataclasses import dataclass
from fractions import Fraction

from sqlalchemy.orm import Session

from registry.db.tables import Model, PatchRevision
from registry.services.catalog import patches
from registry.services.composing import compositions, snapshots

MOST_PARTS = 8  # patches of the release that are read, those with the largest weights


@dataclass(frozen=True)
class CheckedAgainst:
    """A release that a patch is compared with.

    Args:
        version: Its version.
        scales: By the sha256 of each of its patches what its values are multiplied by.
    """

    version: str
    scales: dict[str, float]


def main_release(session: Session, model: Model, patch_id: uuid.UUID) -> CheckedAgainst | None:
    """Return the release that `main` of a model stands for, which is what people get who name no revision.

    Args:
        session: A transaction.
        model: The model.
        patch_id: The patch that is compared, whose own revisions do not count.

    Returns:
        None if there is no release, or nothing of it that can be read.
    """
    release = snapshots.default_release(session, model)
    if release is None:
        return None
    recipe = compositions.load(session, release.recipe_digest)
    weights = {item.sha256: Fraction(item.weight) for item in recipe.items}
    whole = sum(map(abs, weights.values())) if recipe.method == "mean" else 1
    largest = sorted(weights, key=lambda sha256: -abs(weights[sha256]))[:MOST_PARTS]
    held = {
        sha256: revision
        for sha256, revision in patches.by_digest(session, model, largest).items()
        if revision.patch_id != patch_id and _can_be_read(revision)
    }
    alpha = Fraction(recipe.alpha)
    scales = {sha256: float(alpha * weights[sha256] / whole) for sha256 in held if weights[sha256]}
    return CheckedAgainst(release.version, scales) if scales and alpha else None


def _can_be_read(revision: PatchRevision) -> bool:
    return revision.blob_sha256 is not None and revision.patch.quarantined_at is None

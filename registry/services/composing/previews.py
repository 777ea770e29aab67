"""What a recipe would be, before anybody composes it: nothing is written, and little is refused."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.breadcrumbs.formats import recipe as recipes
from registry.db.tables import Composition, Model, PatchRevision
from registry.documents import licences
from registry.errors import InvalidRecipe
from registry.services.catalog import models, patches
from registry.services.composing import compositions, conflicts
from registry.services.composing.compositions import Ingredient
from registry.services.composing.conflicts import KnownConflicts
from registry.services.people.actors import Actor


@dataclass(frozen=True)
class Preview:
    """What a recipe would be.

    Args:
        recipe: What would be composed.
        weights_digest: What came out when it was composed, if it was.
        patches: Each with its weight and what to know of it, in the order they were named in.
        warnings: What to know of the whole.
        model_bytes: Of all files of the model.
        touched: Weights that a patch changes, where that is known.
        conflicts: Where those that may be compared meet.
    """

    recipe: recipes.Recipe
    weights_digest: str | None
    patches: list[tuple[PatchRevision, str, list[str]]]
    warnings: list[str]
    model_bytes: int
    touched: int | None
    conflicts: KnownConflicts


def preview(
    session: Session,
    actor: Actor | None,
    full_name: str,
    alpha: str,
    items: Sequence[Ingredient],
    *,
    allow_yanked: bool = False,
) -> Preview:
    """Say what base + alpha * sum(weight * patch) would be.

    What keeps a patch from being composed is a warning here, as is what one should know of it.

    Raises:
        NotFound, WrongState: the model is not there, or not ready.
        InvalidRecipe: there is no such patch, one is named twice, or a scale is beyond float32.
    """
    model = models.ready(session, full_name)
    found = compositions.named(session, model, items)
    recipe = compositions.weighed(model, alpha, items, found)
    digest = session.scalar(
        select(Composition.weights_digest).where(
            Composition.model_id == model.id, Composition.recipe_digest == recipe.digest
        )
    )
    told = [
        (revision, item.weight, warnings_of(model, revision, allow_yanked=allow_yanked))
        for item, revision in zip(recipe_items(recipe, found), found, strict=True)
    ]
    warnings = [sentence for _, _, sentences in told for sentence in sentences] + licence_warnings(model, found)
    may = [one for one in found if one.state == "checked" and (one.patch.quarantined_at is None or is_admin(actor))]
    if len(may) > conflicts.MOST:
        warnings.append(f"Where patches meet is told of at most {conflicts.MOST} at once, and these are {len(may)}.")
        meeting = KnownConflicts(may, missing=len(may) * (len(may) - 1) // 2)
    else:
        meeting = conflicts.known_conflicts(session, model, may)
    touched = None
    if len(found) < 2:
        touched = sum(one.nnz for one in found if one.nnz is not None)
    elif len(may) == len(found) and meeting.touched is not None:
        touched = sum(meeting.touched[1:])
    return Preview(recipe, digest, told, warnings, model.size, touched, meeting)


def is_admin(actor: Actor | None) -> bool:
    """Say whether somebody is an admin of the registry."""
    return actor is not None and actor.admin


def recipe_items(recipe: recipes.Recipe, found: Sequence[PatchRevision]) -> list[recipes.Item]:
    """Return the items of a recipe, which are in the order of their digests, in that of the patches."""
    items = {item.sha256: item for item in recipe.items}
    return [items[revision.sha256] for revision in found]


def warnings_of(model: Model, revision: PatchRevision, *, allow_yanked: bool) -> list[str]:
    """Return what to know of a patch before it is composed, a sentence each; first what would refuse it."""
    patch, subject = revision.patch, f"{model.full_name}{conflicts.name_of(revision)}"
    warnings = []
    try:
        compositions.require_composable(revision, subject, allow_yanked)
    except InvalidRecipe as refusal:
        warnings.append(refusal.message)
    else:
        if patch.state == "yanked":
            warnings.append(f"{subject} was yanked: {patch.reason}")
    if patch.state == "superseded":
        warnings.append(f"{subject} was superseded by #{patch.superseded_by}.")
    elif patch.state not in ("accepted", "yanked"):
        warnings.append(f"{subject} is {patch.state.replace('_', ' ')}, and not accepted.")
    if revision.number != patch.revision:
        warnings.append(f"{subject} is revision {revision.number}; the newest is {patch.revision}.")
    return warnings


def licence_warnings(model: Model, found: Sequence[PatchRevision]) -> list[str]:
    """Return a sentence for each two licences that do not go together, and for each that somebody should read."""
    judged = licences.judge(patches.licensed_parts(model, found))
    return [pair.sentence for pair in judged.incompatible] + judged.warnings

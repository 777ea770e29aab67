"""Mixes: what people ask to compose, as numbers of patches, and the recipe that it is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.alpha import AUTO
from registry.breadcrumbs.formats import recipe as recipes
from registry.breadcrumbs.formats.globs import check_glob, require_matches
from registry.breadcrumbs.formats.recipe import ALONE
from registry.db.tables import PatchRevision, PatchTensor
from registry.errors import InvalidRecipe
from registry.services.catalog import patches
from registry.services.composing import alphas
from registry.services.people.access import AnyModel


class Ingredient(NamedTuple):
    """A patch by its number, its revision (None is the newest), its weight as a decimal, and its weights by tensor."""

    number: int
    weight: str = "1"
    revision: int | None = None
    where: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Mix:
    """What to compose: base + alpha * (patches combined by a method).

    Args:
        items: The patches.
        alpha: A decimal, or `auto` for the one that the patches give.
        method: sum, ties or mean.
        allow_yanked: Whether patches may be yanked ones.
    """

    items: Sequence[Ingredient]
    alpha: str = AUTO
    method: str = "sum"
    allow_yanked: bool = False


def choose(session: Session, model: AnyModel, mix: Mix) -> recipes.Recipe:
    """Turn patch numbers into a recipe.

    Raises:
        InvalidRecipe: A patch does not exist, is not checked, is quarantined, or is yanked and that is not allowed; or
            a glob matches none of its tensors.
        NotCompared: Alpha is `auto`, and the patches have to be compared first.
    """
    revisions = named(session, model, mix.items)
    subjects = [f"{model.full_name}#{item.number}{dot(item)}" for item in mix.items]
    for revision, subject in zip(revisions, subjects, strict=True):
        require_composable(revision, subject, mix.allow_yanked)
    for item, revision, subject in zip(mix.items, revisions, subjects, strict=True):
        require_tensors(session, revision, subject, [glob for glob, _ in item.where])
    return recipe_of(session, model, mix, revisions)


def recipe_of(session: Session, model: AnyModel, mix: Mix, revisions: Sequence[PatchRevision]) -> recipes.Recipe:
    """Return the recipe of the revisions that a mix names, whether or not it may be composed.

    Raises:
        InvalidRecipe: A scale is beyond the range of float32, or not one that the method takes.
        NotCompared: Alpha is `auto`, and the patches have to be compared first.
    """
    assert model.base_digest is not None
    items = [
        recipes.Item(revision.sha256, item.weight, tuple(item.where))
        for item, revision in zip(mix.items, revisions, strict=True)
    ]
    recipe = recipes.make_recipe(model.base_digest, ALONE if mix.alpha == AUTO else mix.alpha, items, mix.method)
    if mix.alpha != AUTO:
        return recipe
    alpha = alphas.find(session, model, mix.method, revisions, [item.weight for item in items])
    return recipes.make_recipe(model.base_digest, alpha, items, mix.method)


def require_tensors(session: Session, revision: PatchRevision, subject: str, globs: Sequence[str]) -> None:
    """Refuse weights by tensor that a patch has no use for.

    Raises:
        InvalidRecipe: A glob is malformed, or matches no tensor that the patch changes.
    """
    if globs:
        for glob in globs:
            check_glob(glob, "where")
        names = session.scalars(select(PatchTensor.name).where(PatchTensor.revision_id == revision.id)).all()
        require_matches(globs, names, subject, f"crumb show {subject}")


def named(session: Session, model: AnyModel, items: Sequence[Ingredient]) -> list[PatchRevision]:
    """Return the revisions that `items` name, in their order.

    Raises:
        InvalidRecipe: A patch does not exist, or is named twice.
    """
    chosen = []
    for number, count in Counter(item.number for item in items).items():
        if count > 1:
            raise InvalidRecipe(f"Patch #{number} is named twice; give it one weight.", field="patches")
    wanted = patches.revisions().where(patches.numbered(session, model, [item.number for item in items]))
    by_name = {(revision.patch.number, revision.number): revision for revision in session.scalars(wanted)}
    newest = {revision.patch.number: revision.patch.revision for revision in by_name.values()}
    for item in items:
        revision = by_name.get((item.number, item.revision or newest.get(item.number, 0)))
        if revision is None:
            raise InvalidRecipe(
                f"There is no patch {model.full_name}#{item.number}{dot(item)}; see `crumb log {model.full_name}`.",
                field="patches",
            )
        chosen.append(revision)
    return chosen


def dot(item: Ingredient) -> str:
    """Return `.2` for revision 2, and nothing for the newest."""
    return f".{item.revision}" if item.revision else ""


def require_composable(revision: PatchRevision, subject: str, allow_yanked: bool) -> None:
    """Refuse a patch that must not be composed.

    Raises:
        InvalidRecipe: The patch must not be composed; the message says why, and what would help.
    """
    patch = revision.patch
    if patch.quarantined_at is not None:
        raise InvalidRecipe(f"{subject} is quarantined and cannot be composed.", field="patches")
    if revision.state != "checked":
        raise InvalidRecipe(f"{subject} is {revision.state}; only checked patches can be composed.", field="patches")
    if patch.state == "yanked" and not allow_yanked:
        why = f" ({patch.reason})" if patch.reason else ""
        raise InvalidRecipe(
            f"{subject} was yanked{why}; leave it out, or pass --allow-yanked to compose it anyway.",
            field="patches",
        )

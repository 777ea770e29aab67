"""Recipes and what comes of them: composed once, kept by digest, pulled by digest."""

import re
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from registry.breadcrumbs import recipe as recipes
from registry.db.models import (
    BaseFile,
    Blob,
    Composition,
    CompositionFile,
    Job,
    Model,
    Patch,
    PatchRevision,
    Recipe,
    RecipeItem,
)
from registry.errors import InvalidRecipe, InvalidRequest, NotFound
from registry.services import jobs, models, patches
from registry.services.actors import Actor, record

PREFIX = re.compile(r"(?:sha256:|recipe-)?([0-9a-f]{8,64})")


@dataclass(frozen=True)
class Revision:
    """A model that can be pulled: the base (no recipe) or a composition."""

    ref: str
    weights_digest: str
    recipe: Recipe | None
    files: Sequence[BaseFile | CompositionFile]


def request(
    session: Session, actor: Actor, full_name: str, alpha: str, items: Sequence[tuple[int, str]]
) -> tuple[Recipe, Composition | None, Job | None]:
    """Ask for base + alpha * sum(weight * patch) over (patch number, weight) items.

    Returns:
        The recipe, and its composition when there is one, else the job that makes it.

    Raises:
        NotFound, Conflict: the model is not there, or not ready.
        InvalidRecipe: names the patch or the decimal at fault.
    """
    model = models.ready(session, full_name, lock=True)
    wanted = [number for number, _ in items]
    for number, count in Counter(wanted).items():
        if count > 1:
            raise InvalidRecipe(f"Patch #{number} is named twice; give it one weight.", field="patches")
    found = {
        revision.patch.number: revision
        for revision in session.scalars(patches.current().where(Patch.model_id == model.id, Patch.number.in_(wanted)))
    }
    for number in wanted:
        if number not in found:
            raise InvalidRecipe(f"There is no patch {full_name}#{number}.", field="patches")
        if found[number].state != "checked":
            raise InvalidRecipe(
                f"{full_name}#{number} is {found[number].state}; only checked patches can be composed.",
                field="patches",
            )
    assert model.base_digest is not None
    made = recipes.make_recipe(model.base_digest, alpha, [(found[number].sha256, weight) for number, weight in items])
    recipe = save(session, made)
    composition = session.scalar(
        select(Composition).where(Composition.model_id == model.id, Composition.recipe_digest == recipe.digest)
    )
    if composition is not None:
        return recipe, composition, None
    job = jobs.enqueue(
        session,
        actor,
        "compose",
        f"compose:{model.id}:{recipe.digest}",
        full_name,
        recipe.digest,
        {"model_id": str(model.id), "recipe": recipe.digest},
    )
    record(session, actor, "recipe.compose", full_name, recipe=recipe.digest)
    return recipe, None, job


def save(session: Session, made: recipes.Recipe) -> Recipe:
    """Return the row of a recipe, adding it when new; another model's request may be adding it at the same time."""
    query = select(Recipe).where(Recipe.digest == made.digest).options(selectinload(Recipe.items))
    while (recipe := session.scalar(query)) is None:
        with suppress(IntegrityError), session.begin_nested():
            items = [RecipeItem(sha256=item.sha256, weight=item.weight) for item in made.items]
            session.add(Recipe(digest=made.digest, base_digest=made.base, alpha=made.alpha, items=items))
    return recipe


def load(session: Session, digest: str) -> Recipe:
    """Return a recipe with its items, by its whole digest."""
    return session.get_one(Recipe, digest, options=[selectinload(Recipe.items)])


def resolve(session: Session, full_name: str, ref: str) -> tuple[Model, Revision]:
    """Return what a reference stands for: `base`, or a composed recipe's digest or unique prefix.

    Raises:
        NotFound: nothing by that name; the message says what to do.
        InvalidRequest: the prefix is too short or not unique.
    """
    model = models.ready(session, full_name)
    assert model.base_digest is not None
    if ref in ("base", model.base_digest):
        return model, Revision("base", model.base_digest, None, models.base_files(session, model))
    prefix = PREFIX.fullmatch(ref)
    if prefix is None:
        raise InvalidRequest(
            f"'{ref}' is no reference: give 'base' or 8 or more digits of a recipe digest.", field="ref"
        )
    found = session.scalars(
        select(Composition)
        .where(Composition.model_id == model.id, Composition.recipe_digest.startswith(prefix[1]))
        .options(selectinload(Composition.files).joinedload(CompositionFile.blob))
        .limit(2)
    ).all()
    if len(found) > 1:
        raise InvalidRequest(
            f"More than one recipe of {full_name} starts with {prefix[1]}; give more digits.", field="ref"
        )
    if not found:
        raise NotFound(f"{full_name} has no composed recipe {prefix[1]}; compose it first with `crumb compose`.")
    composition = found[0]
    recipe = load(session, composition.recipe_digest)
    return model, Revision(recipe.digest, composition.weights_digest, recipe, composition.files)


def find_file(revision: Revision, path: str) -> Blob:
    """Return the blob of one file of a revision.

    Raises:
        NotFound: it has no such file.
    """
    for file in revision.files:
        if file.path == path:
            return file.blob
    raise NotFound(f"There is no file {path!r} in this revision.")


def reusable(session: Session, model: Model, digest: str) -> dict[str, Any] | None:
    """Return what composing this recipe gave on another model whose base has the same weight files, if it was."""
    mine = {(file.path, file.sha256) for file in models.base_files(session, model) if models.is_weights(file.path)}
    for other in session.scalars(
        select(Composition).where(Composition.recipe_digest == digest).options(selectinload(Composition.files))
    ):
        theirs = session.scalars(select(BaseFile).where(BaseFile.model_id == other.model_id))
        if mine == {(file.path, file.sha256) for file in theirs if models.is_weights(file.path)}:
            return {
                "weights_digest": other.weights_digest,
                "device": other.device,
                "seconds": other.seconds,
                "files": {file.path: file.sha256 for file in other.files if models.is_weights(file.path)},
            }
    return None


def require_ingredients(session: Session, model: Model, recipe: Recipe) -> None:
    """Refuse a recipe when a patch of it is no longer there to be composed.

    Raises:
        InvalidRecipe: names the patch.
    """
    digests = [item.sha256 for item in recipe.items]
    there = set(
        session.scalars(
            select(PatchRevision.blob_sha256)
            .join(Patch, Patch.id == PatchRevision.patch_id)
            .where(Patch.model_id == model.id, PatchRevision.state == "checked", PatchRevision.sha256.in_(digests))
        )
    )
    for digest in digests:
        if digest not in there:
            raise InvalidRecipe(f"The patch {digest} is no longer there to be composed.")


def finish(
    session: Session,
    model: Model,
    digest: str,
    weights_digest: str,
    device: str,
    seconds: float,
    files: Mapping[str, str],
) -> Composition:
    """Write down a composition and its files (path -> blob)."""
    composition = Composition(
        id=uuid.uuid4(),
        model_id=model.id,
        recipe_digest=digest,
        weights_digest=weights_digest,
        device=device,
        seconds=seconds,
        files=[CompositionFile(path=path, sha256=sha256) for path, sha256 in sorted(files.items())],
    )
    session.add(composition)
    session.flush()
    record(session, None, "recipe.composed", model.full_name, recipe=digest, weights_digest=weights_digest)
    return composition


def view_items(session: Session, model: Model, recipe: Recipe) -> list[tuple[RecipeItem, int, str]]:
    """Return a recipe's items with number and title in this model."""
    known = patches.titles(session, model, [item.sha256 for item in recipe.items])
    return [(item, *known.get(item.sha256, (0, "no longer listed"))) for item in recipe.items]


def composition_of(session: Session, model: Model, digest: str) -> Composition | None:
    """Return a model's composition of a recipe, with its files."""
    return session.scalar(
        select(Composition)
        .where(Composition.model_id == model.id, Composition.recipe_digest == digest)
        .options(selectinload(Composition.files).joinedload(CompositionFile.blob))
    )

"""Compositions: the results of recipes, each composed once per model and kept by the recipe's digest."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, selectinload

from registry.breadcrumbs.formats import recipe as recipes
from registry.db.tables import (
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
    Release,
)
from registry.documents.commits import commit_id
from registry.errors import Forbidden, InvalidRecipe, RevisionNotFound, WrongState
from registry.files import folders
from registry.files.folders import describes_weights, is_weights
from registry.services.catalog import models, patches
from registry.services.composing import alone, builds, excerpts
from registry.services.composing.mixes import Mix, choose, require_composable
from registry.services.people import access
from registry.services.people.access import AnyModel
from registry.services.people.actors import Actor, record
from registry.services.people.rules import Role
from registry.services.queue import jobs
from registry.storage.pieces import Excerpt


def request(session: Session, actor: Actor, full_name: str, mix: Mix) -> tuple[Recipe, Composition | None, Job | None]:
    """Ask for the composition of some patches.

    Returns:
        The recipe, and its composition if there is one, else the job that composes it.

    Raises:
        NotFound, WrongState: The model does not exist, or is not ready.
        InvalidRecipe: A patch cannot be composed, or a decimal is out of range; the message names it.
    """
    model = models.ready(session, full_name, lock=True)
    recipe = save(session, choose(session, model, mix))
    return recipe, *ask(session, actor, model, recipe)


def requested(session: Session, model: Model, digest: str) -> tuple[Recipe, Composition | None, Job | None]:
    """Return a recipe that somebody asked for on a model, and its composition, or else the newest job for it.

    Raises:
        RevisionNotFound: Nobody has asked for this recipe.
    """
    recipe = session.get(Recipe, digest, options=[selectinload(Recipe.items)])
    if recipe is not None:
        composition, key = composition_of(session, model, digest), job_key(model, digest)
        job = None if composition else jobs.active(session, key) or jobs.last_given_up(session, key)
        if composition is not None or job is not None:
            return recipe, composition, job
    raise RevisionNotFound(
        f"Nobody has composed the recipe {digest[:12]} on {model.full_name}; make one of its patches."
    )


def ask(session: Session, actor: Actor, model: Model, recipe: Recipe) -> tuple[Composition | None, Job | None]:
    """Return a locked model's composition of a recipe, or the job that composes it, which is enqueued only once."""
    active = jobs.active(session, job_key(model, recipe.digest))
    before = (active.shared, active.cancel_requested) if active else None
    composition, job = ensure(session, actor.user_id, model, recipe)
    if job is not None and (job.shared, job.cancel_requested) != before:
        record(session, actor, "recipe.compose", model.full_name, model, after={"recipe": recipe.digest})
    return composition, job


def to_recipe(row: Recipe) -> recipes.Recipe:
    """Return a recipe's row as the recipe that compositions are computed from."""
    items = [recipes.Item(item.sha256, item.weight, item.where) for item in row.items]
    return recipes.make_recipe(row.base_digest, row.alpha, items, row.method)


def excerpts_of(session: Session, model: AnyModel, recipe: recipes.Recipe) -> dict[str, Excerpt]:
    """Return what a recipe needs of patches that it does not apply to all tensors; the others are needed whole."""
    narrowed = [item for item in recipe.items if any(factor == "0" for _, factor in item.where)]
    wanted = {item.sha256: partial(_is_touched, recipe, item) for item in narrowed}
    return excerpts.of_patches(session, model, wanted)


def _is_touched(recipe: recipes.Recipe, item: recipes.Item, tensor: str) -> bool:
    return recipe.scale_in(item, tensor) is not None


def ensure(session: Session, user_id: uuid.UUID, model: Model, recipe: Recipe) -> tuple[Composition | None, Job | None]:
    """Return a model's composition of a recipe, or the job that composes it: again, if its bytes are damaged."""
    composition = composition_of(session, model, recipe.digest)
    if composition is not None and not is_damaged(composition):
        return composition, None
    return None, enqueue(session, user_id, model, recipe.digest)


def enqueue(session: Session, user_id: uuid.UUID, model: Model, digest: str) -> Job:
    """Return the job that composes a recipe on a model, which is enqueued only once."""
    key, more = job_key(model, digest), bytes_of_patches(session, digest)
    return jobs.enqueue(session, user_id, "compose", key, model, digest, {"recipe": digest}, more_bytes=more)


def bytes_of_patches(session: Session, digest: str) -> int:
    """Return how many bytes the files of a recipe's patches have together."""
    sizes = select(func.coalesce(func.sum(Blob.size), 0)).join(RecipeItem, RecipeItem.sha256 == Blob.sha256)
    return int(session.scalars(sizes.where(RecipeItem.recipe_digest == digest)).one())


def job_key(model: Model, digest: str) -> str:
    """Return the key of the job that composes a recipe; one such job is active at a time."""
    return f"compose:{model.id}:{digest}"


def rebuild_key(model: Model, digest: str) -> str:
    """Return the key of the job that composes a recipe again, to compare the results."""
    return f"rebuild:{model.id}:{digest}"


def save(session: Session, recipe: recipes.Recipe) -> Recipe:
    """Return the row of a recipe, adding it if new; another model's request may be adding it at the same time."""
    query = select(Recipe).where(Recipe.digest == recipe.digest).options(selectinload(Recipe.items))
    while (row := session.scalar(query)) is None:
        with suppress(IntegrityError), session.begin_nested():
            items = [
                RecipeItem(sha256=item.sha256, weight=item.weight, factors=[list(pair) for pair in item.where] or None)
                for item in recipe.items
            ]
            session.add(
                Recipe(
                    digest=recipe.digest,
                    base_digest=recipe.base,
                    alpha=recipe.alpha,
                    method=recipe.method,
                    items=items,
                )
            )
    return row


def load(session: Session, digest: str) -> Recipe:
    """Return a recipe with its items, by its whole digest."""
    return session.get_one(Recipe, digest, options=[selectinload(Recipe.items)])


def reusable(session: Session, model: Model, digest: str, *, held: bool) -> dict[str, Any] | None:
    """Return the result of this recipe on another model whose base has the same weight files, if there is one.

    With `held`, only one whose bytes are on disk.
    """
    mine = {(file.path, file.sha256) for file in models.base_files(session, model) if _settles_weights(file.path)}
    for other in session.scalars(
        select(Composition)
        .where(Composition.recipe_digest == digest)
        .options(selectinload(Composition.files).joinedload(CompositionFile.blob))
    ):
        theirs = session.scalars(select(BaseFile).where(BaseFile.model_id == other.model_id))
        if any(file.blob.damaged_at for file in other.files if is_weights(file.path)) or (held and not other.held):
            continue
        if mine == {(file.path, file.sha256) for file in theirs if _settles_weights(file.path)}:
            build = builds.builds_of(session, other.model_id, digest)[0]
            return {
                "builder": build.builder,
                "nodes": build.nodes,
                "weights_digest": other.weights_digest,
                "device": other.device,
                "seconds": other.seconds,
                "warnings": other.warnings,
                "files": {file.path: file.sha256 for file in other.files if _settles_weights(file.path)},
            }
    return None


def _settles_weights(path: str) -> bool:
    return is_weights(path) or describes_weights(path)


def require_ingredients(session: Session, model: Model, recipe: Recipe) -> None:
    """Refuse a recipe if one of its patches is no longer listed, or was quarantined since.

    Raises:
        InvalidRecipe: A patch can no longer be composed; the message names it.
    """
    listed = patches.by_digest(session, model, [item.sha256 for item in recipe.items])
    for item in recipe.items:
        if item.sha256 not in listed:
            raise InvalidRecipe(
                f"The patch {item.sha256} is no longer listed in {model.full_name}; compose a recipe without it."
            )
        number = listed[item.sha256].patch.number
        require_composable(listed[item.sha256], f"{model.full_name}#{number}", allow_yanked=True)


def finish(
    session: Session,
    model: Model,
    digest: str,
    weights_digest: str,
    device: str,
    seconds: float,
    files: Mapping[str, str],
    builder: str,
    user_id: uuid.UUID | None,
    warnings: Sequence[str] = (),
    *,
    held: bool = True,
    nodes: Sequence[str] | None = None,
) -> Composition:
    """Add a composition that a user asked for, its files (path -> blob) and the build of the worker.

    `nodes` are those of the build, see `builds.add`.
    """
    composition = Composition(
        id=uuid.uuid4(),
        model_id=model.id,
        recipe_digest=digest,
        user_id=user_id,
        weights_digest=weights_digest,
        commit=commit_id(files),
        device=device,
        seconds=seconds,
        warnings=list(warnings),
        held=held,
        files=[CompositionFile(path=path, sha256=sha256) for path, sha256 in sorted(files.items())],
    )
    session.add(composition)
    session.flush()
    alone.name(session, model, load(session, digest), files)
    after = {"recipe": digest, "weights_digest": weights_digest, "builder": builder}
    record(session, None, "recipe.composed", model.full_name, model, after=after)
    builds.add(session, model, digest, builder, None, weights_digest, device, nodes)
    return composition


def delete(session: Session, actor: Actor, full_name: str, digest: str) -> None:
    """Delete the files of a recipe's composition; its recipe and builds stay, and it can be composed again.

    Raises:
        RevisionNotFound: The recipe is not composed.
        Forbidden: Another user asked for it, and the caller is not a maintainer.
        WrongState: A release or an open job holds it.
    """
    model = models.ready(session, full_name, lock=True)
    composition = composition_of(session, model, digest)
    if composition is None:
        raise RevisionNotFound(f"The recipe {digest[:12]} is not composed on {full_name}.")
    if not may_delete(session, actor, model, composition):
        raise Forbidden(
            f"Somebody else asked for this composition; only they or a maintainer of {full_name} may delete it."
        )
    if reason := kept_because(session, model, digest):
        raise WrongState(reason)
    before = {"recipe": digest, "weights_digest": composition.weights_digest}
    session.delete(composition)
    session.flush()
    record(session, actor, "recipe.delete", full_name, model, before=before)


def may_delete(session: Session, actor: Actor, model: Model, composition: Composition) -> bool:
    """Say whether somebody may delete a composition: who asked for it, and maintainers."""
    return composition.user_id == actor.user_id or access.role_on(session, actor, model) >= Role.MAINTAINER


def kept_because(session: Session, model: Model, digest: str) -> str | None:
    """Say why a composition cannot be deleted by anybody: a release or an open job holds it; None if it can."""
    held = select(Release.version).where(Release.model_id == model.id, Release.recipe_digest == digest)
    if version := session.scalar(held.order_by(Release.sort.desc()).limit(1)):
        return f"The release {model.full_name}@{version} holds this composition; it stays as long as the release."
    if jobs.active(session, rebuild_key(model, digest)):
        return "A worker is composing this recipe again to compare the results; try again later."
    return None


def is_damaged(composition: Composition) -> bool:
    """Say whether a file that composing writes is damaged, so that composing again repairs it."""
    written = [file for file in composition.files if is_weights(file.path) or file.path == "README.md"]
    return any(file.blob.damaged_at is not None for file in written)


def left_out(session: Session, model: AnyModel, composition: Composition) -> list[str]:
    """Return the files of the base with other copies of its weights, which a composition does not have, by path."""
    paths = session.scalars(select(BaseFile.path).where(BaseFile.model_id == model.id).order_by(BaseFile.path))
    return folders.left_out(paths, {file.path for file in composition.files})


def described(session: Session, model: AnyModel, recipe: Recipe) -> list[tuple[RecipeItem, PatchRevision | None]]:
    """Return a recipe's items, each with the revision that it is in this model; None if that is no longer listed."""
    known = patches.by_digest(session, model, [item.sha256 for item in recipe.items])
    return [(item, known.get(item.sha256)) for item in recipe.items]


def held(session: Session, model: AnyModel, digests: Collection[str]) -> dict[str, PatchRevision]:
    """Return the checked revisions that recipes hold and that are still listed, by the digest of their file."""
    inside = select(RecipeItem.sha256).where(RecipeItem.recipe_digest.in_(digests))
    query = patches.revisions().where(
        Patch.model_id == model.id, PatchRevision.sha256.in_(inside), PatchRevision.state == "checked"
    )
    return {revision.sha256: revision for revision in session.scalars(query)}


def composition_of(session: Session, model: AnyModel, digest: str) -> Composition | None:
    """Return a model's composition of a recipe, with its files; None if there is none."""
    return session.scalar(
        select(Composition)
        .where(Composition.model_id == model.id, Composition.recipe_digest == digest)
        .options(selectinload(Composition.files).joinedload(CompositionFile.blob))
    )

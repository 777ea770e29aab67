"""Builds: who composed a recipe, and the weights digest they came to. Two that agree make a result reliable.

A build is a worker's, which composed on its own, or a user's, who ran `crumb verify --recompose`. All builds of a
recipe must agree to the bit. If two differ, a machine, a program or a person is wrong: that is an alarm, and nothing
is published on the recipe until an operator has found out which.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from registry.db.tables import BaseFile, Build, Composition, CompositionFile, Model, Recipe
from registry.errors import InvalidRequest, WrongState
from registry.files.folders import is_weights
from registry.services.people.access import AnyModel
from registry.services.people.actors import Actor, record

Found = TypeVar("Found")
BUILDS_NEEDED = 2  # that agree and have nobody in common, before a release can be published


def add(
    session: Session,
    model: Model,
    digest: str,
    builder: str,
    actor: Actor | None,
    weights_digest: str,
    device: str,
    nodes: Sequence[str] | None = None,
) -> Build:
    """Add a build. Does nothing if the same builder came to the same result before.

    Args:
        session: A writing transaction.
        model: The model.
        digest: Of the recipe.
        builder: Who composed it.
        actor: The user who did, if it was no worker.
        weights_digest: The result.
        device: Where.
        nodes: Who composed its files, where that is not the builder alone.

    Raises:
        WrongState: The same builder came to another result before.
    """
    earlier = session.scalar(
        select(Build).where(Build.model_id == model.id, Build.recipe_digest == digest, Build.builder == builder)
    )
    if earlier is not None:
        if earlier.weights_digest != weights_digest:
            raise WrongState(
                f"{builder} came to {earlier.weights_digest} for this recipe before; one of the two results is wrong."
            )
        return earlier
    build = Build(
        model_id=model.id,
        recipe_digest=digest,
        builder=builder,
        user_id=actor.user_id if actor else None,
        weights_digest=weights_digest,
        device=device,
        nodes=sorted(nodes) if nodes else None,
    )
    recipe = session.get_one(Recipe, digest, with_for_update={"key_share": True}, populate_existing=True)
    session.add(build)
    session.flush()
    others = select(Build.id).where(Build.recipe_digest == digest, Build.weights_digest != weights_digest)
    recipe.disputed = recipe.disputed or session.scalar(others.limit(1)) is not None
    session.flush()
    return build


def add_rebuild(
    session: Session,
    model: Model,
    digest: str,
    worker: str,
    weights_digest: str,
    device: str,
    nodes: Sequence[str] | None = None,
    files: Mapping[str, str] | None = None,
) -> None:
    """Record that a worker composed again what another had composed; a difference is an alarm.

    `nodes` are those of the build, see `add`. A worker that has built it before has done so again, on other nodes.
    `files` are its weight files, digests by path: a mirror has those of the composition by its primary's word.
    """
    while nodes and any(build.builder == worker for build in builds_of(session, model.id, digest)):
        worker += " again"
    add(session, model, digest, worker, None, weights_digest, device, nodes)
    after: dict[str, Any] = {"recipe": digest, "weights_digest": weights_digest, "builder": worker}
    if others := other_files(session, model, digest, files) if files is not None else []:
        after["files"] = others
        session.get_one(Recipe, digest, with_for_update={"key_share": True}, populate_existing=True).disputed = True
    action = "recipe.alarm" if others or disagree(session, model, digest) else "recipe.rebuilt"
    record(session, None, action, model.full_name, model, after=after)


def other_files(session: Session, model: Model, digest: str, files: Mapping[str, str]) -> list[str]:
    """Return the weight files of a model's composition that are others than those that it should have."""
    composed = select(Composition.id).where(Composition.model_id == model.id, Composition.recipe_digest == digest)
    rows = session.scalars(select(CompositionFile).where(CompositionFile.composition_id.in_(composed)))
    base = session.scalars(select(BaseFile).where(BaseFile.model_id == model.id))
    due = {file.path: file.sha256 for file in base} | dict(files)
    return sorted(row.path for row in rows if is_weights(row.path) and due.get(row.path) != row.sha256)


def attest(session: Session, actor: Actor, model: Model, digest: str, weights_digest: str, device: str) -> Build:
    """Add a user's build, composed on their machine; the caller has checked that the model has this composition.

    Raises:
        WrongState: The user came to another result before.
    """
    known = {build.builder for build in builds_of(session, model.id, digest)}
    build = add(session, model, digest, f"user:{actor.name}", actor, weights_digest, device)
    if build.builder not in known:
        after = {"recipe": digest, "weights_digest": weights_digest, "device": device}
        action = "recipe.alarm" if disagree(session, model, digest) else "recipe.rebuilt"
        record(session, actor, action, model.full_name, model, after=after)
    return build


def find_recipe(session: Session, model: Model, prefix: str) -> str | None:
    """Return the digest of a recipe that was composed on a model, by some first digits; None if there is none.

    Unlike its composition, which may be deleted, the builds of a recipe stay.

    Raises:
        InvalidRequest: More than one recipe starts with these digits.
    """
    starts = Build.recipe_digest.startswith(prefix)
    known = session.scalars(select(Build.recipe_digest).where(Build.model_id == model.id, starts).distinct().limit(2))
    digests = require_one(known.all(), model, prefix)
    return digests[0] if digests else None


def require_one(found: Sequence[Found], model: AnyModel, prefix: str) -> Sequence[Found]:
    """Refuse some first digits with which several recipes of a model start; return what was found.

    Raises:
        InvalidRequest: More than one recipe starts with these digits.
    """
    if len(found) > 1:
        raise InvalidRequest(
            f"More than one recipe of {model.full_name} starts with {prefix}; give more digits.", field="ref"
        )
    return found


def builds_of(session: Session, model_id: uuid.UUID, digest: str) -> Sequence[Build]:
    """Return a model's builds of a recipe, oldest first."""
    return builds_by_recipe(session, model_id, [digest])[digest]


def builds_by_recipe(session: Session, model_id: uuid.UUID, digests: Collection[str]) -> dict[str, list[Build]]:
    """Return a model's builds of recipes, oldest first, by recipe."""
    by_recipe: dict[str, list[Build]] = {digest: [] for digest in digests}
    query = select(Build).where(Build.model_id == model_id, Build.recipe_digest.in_(digests))
    for build in session.scalars(query.order_by(Build.created_at, Build.builder)):
        by_recipe[build.recipe_digest].append(build)
    return by_recipe


def counting(model: Model) -> ColumnElement[bool]:
    """Return the condition for the builds that must agree: of workers here on any model, all others on this one alone.

    Anybody may maintain a copy of a model, and attest there to whatever they like; so may a registry that is mirrored.
    """
    return or_(Build.model_id == model.id, and_(Build.user_id.is_(None), Build.told.is_(False)))


def results(session: Session, model: Model, digests: Collection[str]) -> dict[str, list[str]]:
    """Return the different results of recipes, by recipe."""
    by_recipe: dict[str, list[str]] = {digest: [] for digest in digests}
    query = select(Build.recipe_digest, Build.weights_digest).where(Build.recipe_digest.in_(digests), counting(model))
    for digest, result in session.execute(query.distinct().order_by(Build.weights_digest)) if digests else ():
        by_recipe[digest].append(result)
    return by_recipe


def disagree(session: Session, model: Model, digest: str) -> list[str]:
    """Return the different results of a recipe if there is more than one; else an empty list."""
    different = results(session, model, [digest])[digest]
    return different if len(different) > 1 else []


def shares(build: Build) -> frozenset[str]:
    """Return who has composed a build: its builder, or the nodes and workers that composed its files."""
    return frozenset(build.nodes or [build.builder])


def confirmed(known: Sequence[Build]) -> bool:
    """Say whether two of a recipe's builds have nobody in common: a machine that is wrong cannot be in both."""
    return any(shares(one).isdisjoint(shares(other)) for one, other in combinations(known, BUILDS_NEEDED))


def dispute(results: Sequence[str], known: Sequence[Build], subject: str) -> str | None:
    """Say why a release cannot be published: only one builder, or results that differ; None if it can.

    Args:
        results: The different results that count.
        known: The model's builds.
        subject: The release to publish.

    Returns:
        Who built what, and how to get a second build.
    """
    if len(results) > 1:
        return (
            f"ALARM: {subject} was composed to {len(results)} different results ({', '.join(results)}); nothing is "
            "published on this recipe. An operator must find the machine that is wrong."
        )
    if not confirmed(known):
        who = ", ".join(sorted({name for build in known for name in shares(build)})) or "nobody"
        return (
            f"It was composed by {who} alone, and {BUILDS_NEEDED} must agree; publish it with --recompose, run "
            f"`crumb verify DIR {subject} --recompose` as a maintainer, or start a second worker."
        )
    return None

"""Who composed a recipe and what came out: two who agree make a result that others can rely on.

A build is a worker's, which composed on its own, or a user's, who ran `crumb verify --recompose`. All builds of a
recipe must agree to the bit. Two that do not mean that a machine, a program or a person is wrong: an alarm, and
nothing is published on that recipe until an operator has looked.
"""

import uuid
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from registry.db.tables import Build, Model
from registry.errors import WrongState
from registry.services.people.actors import Actor, record

ENOUGH = 2


def add(
    session: Session,
    model: Model,
    digest: str,
    builder: str,
    actor: Actor | None,
    weights_digest: str,
    device: str,
) -> Build:
    """Write down a build; the same builder's second one with the same result changes nothing.

    Raises:
        WrongState: the same builder has reported another result.
    """
    found = session.scalar(
        select(Build).where(Build.model_id == model.id, Build.recipe_digest == digest, Build.builder == builder)
    )
    if found is not None:
        if found.weights_digest != weights_digest:
            raise WrongState(
                f"{builder} has reported {found.weights_digest} for this recipe before; one of them is wrong."
            )
        return found
    build = Build(
        model_id=model.id,
        recipe_digest=digest,
        builder=builder,
        user_id=actor.user_id if actor else None,
        weights_digest=weights_digest,
        device=device,
    )
    session.add(build)
    session.flush()
    return build


def rebuilt(session: Session, model: Model, digest: str, worker: str, weights_digest: str, device: str) -> None:
    """Write down that a worker composed again what another had composed; a difference is an alarm."""
    add(session, model, digest, worker, None, weights_digest, device)
    after = {"recipe": digest, "weights_digest": weights_digest, "builder": worker}
    action = "recipe.alarm" if disagree(session, model, digest) else "recipe.rebuilt"
    record(session, None, action, model.full_name, model, after=after)


def report(session: Session, actor: Actor, model: Model, digest: str, weights_digest: str, device: str) -> Build:
    """Take a user's build, composed on their machine; the caller has seen that the model has this composition.

    Raises:
        WrongState: they have reported another result before.
    """
    known = {build.builder for build in builds_of(session, model.id, digest)}
    build = add(session, model, digest, f"user:{actor.name}", actor, weights_digest, device)
    if build.builder not in known:
        after = {"recipe": digest, "weights_digest": weights_digest, "device": device}
        action = "recipe.alarm" if disagree(session, model, digest) else "recipe.rebuilt"
        record(session, actor, action, model.full_name, model, after=after)
    return build


def builds_of(session: Session, model_id: uuid.UUID, digest: str) -> Sequence[Build]:
    """Return a model's builds of a recipe, oldest first."""
    return builds_by_recipe(session, model_id, [digest])[digest]


def builds_by_recipe(session: Session, model_id: uuid.UUID, digests: Collection[str]) -> dict[str, list[Build]]:
    """Return a model's builds of recipes, oldest first, by recipe."""
    found: dict[str, list[Build]] = {digest: [] for digest in digests}
    query = select(Build).where(Build.model_id == model_id, Build.recipe_digest.in_(digests))
    for build in session.scalars(query.order_by(Build.created_at, Build.builder)):
        found[build.recipe_digest].append(build)
    return found


def counting(model: Model) -> ColumnElement[bool]:
    """Return the condition for the builds that must agree: of workers on any model, of users on this one alone.

    Anybody may maintain a copy of a model, and report there what they like.
    """
    return or_(Build.model_id == model.id, Build.user_id.is_(None))


def results(session: Session, model: Model, digests: Collection[str]) -> dict[str, list[str]]:
    """Return the different results of recipes, by recipe."""
    found: dict[str, list[str]] = {digest: [] for digest in digests}
    query = select(Build.recipe_digest, Build.weights_digest).where(Build.recipe_digest.in_(digests), counting(model))
    for digest, result in session.execute(query.distinct().order_by(Build.weights_digest)) if digests else ():
        found[digest].append(result)
    return found


def disagree(session: Session, model: Model, digest: str) -> list[str]:
    """Return the different results of a recipe, when there is more than one."""
    found = results(session, model, [digest])[digest]
    return found if len(found) > 1 else []


def dispute(results: Sequence[str], found: Sequence[Build], subject: str) -> str | None:
    """Say why nothing can be published on a recipe that only one has built, or two differently; None if it can.

    Args:
        results: The different results that count.
        found: The model's builds.
        subject: What is to be published.

    Returns:
        Who built what, and how to get a second build.
    """
    if len(results) > 1:
        return (
            f"ALARM: {subject} was composed to {len(results)} different results ({', '.join(results)}); nothing is "
            "published on this recipe. An operator must find the machine that is wrong."
        )
    if len(found) < ENOUGH:
        who = ", ".join(build.builder for build in found) or "nobody"
        return (
            f"It has been composed by {who} alone, and {ENOUGH} must agree; publish it with --recompose, run "
            f"`crumb verify DIR {subject} --recompose` as a maintainer, or start a second worker."
        )
    return None

"""A model as a repository of the Hub: what its names for revisions stand for, its branches, tags and history.

    main, HEAD                the channel `stable`, else the newest published release, else the base
    1.2.0, refs/tags/1.2.0    a release                         a tag, once published
    stable, refs/heads/...    the release a channel points at   a branch
    base                      the base                          a branch
    refs/pr/12                base + 0.3 x patch #12            a pull request
    recipe-<8 to 64 hex>      a recipe
    <7 to 40 hex>             a commit: the files of any of these, for ever

What is not composed yet is composed on demand, for those who may ask for that.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Literal

from sqlalchemy import or_, select
from sqlalchemy.orm import Session, joinedload, selectinload

from registry.breadcrumbs.formats import recipe as recipes
from registry.db.tables import Channel, Composition, Job, Model, Patch, PatchRevision, Recipe, RecipeItem, Release
from registry.errors import Forbidden, InvalidInput, NotComposed, RevisionNotFound
from registry.services.catalog import models, patches
from registry.services.composing import compositions, snapshots
from registry.services.composing.compositions import Ingredient
from registry.services.composing.snapshots import Snapshot
from registry.services.people.actors import Actor

COMMIT = re.compile(r"[0-9a-f]{7,40}")
PULL = re.compile(r"refs/pr/([1-9][0-9]{0,8})")
RECIPE = re.compile(r"recipe-([0-9a-f]{8,64})")


@dataclass(frozen=True)
class Ref:
    """A name and the commit that it stands for."""

    kind: Literal["branch", "tag", "pull"]
    name: str
    commit: str


@dataclass(frozen=True)
class Commit:
    """One step of a history."""

    id: str
    title: str
    message: str
    at: datetime
    authors: list[str]


def find(session: Session, actor: Actor | None, model: Model, ref: str) -> Snapshot:
    """Return what a revision of the Hub stands for.

    Raises:
        RevisionNotFound: nothing; the message says what to do.
        NotComposed: a recipe that has to be composed first.
        Forbidden: it holds a quarantined patch, and the caller is no admin.
    """
    name = short(ref)
    if not name.isprintable():  # a database refuses NUL
        raise RevisionNotFound(f"{model.full_name} has no revision {ref!r}.")
    if (pull := PULL.fullmatch(name)) is not None:
        return of_recipe(session, actor, model, of_patch(session, model, int(pull[1])), pull[1])
    if COMMIT.fullmatch(name) and (found := snapshots.of_commit(session, actor, model, name)) is not None:
        return found
    if (recipe := RECIPE.fullmatch(name)) is not None:
        return of_recipe(session, actor, model, known_recipe(session, model, recipe[1]), None)
    try:
        return snapshots.find(session, actor, model, name)
    except InvalidInput as why:  # too few digits
        raise RevisionNotFound(why.message) from None


def short(ref: str) -> str:
    """Return a reference without what git writes before branches and tags."""
    return re.sub(r"^refs/(heads|tags)/", "", "main" if ref == "HEAD" else ref)


def of_patch(session: Session, model: Model, number: int) -> recipes.Recipe:
    """Return the recipe of a patch alone, at the usual alpha, yanked or not.

    Raises:
        RevisionNotFound: there is no such patch, or it cannot be composed.
    """
    try:
        return compositions.choose(session, model, recipes.ALPHA, [Ingredient(number)], allow_yanked=True)
    except InvalidInput as why:
        raise RevisionNotFound(why.message) from None


def known_recipe(session: Session, model: Model, prefix: str) -> recipes.Recipe:
    """Return the recipe by some digits of its digest, if somebody has asked for it and all its patches are here.

    Raises:
        RevisionNotFound: there is none, or more than one.
    """
    rows = session.scalars(
        select(Recipe)
        .where(Recipe.digest.startswith(prefix), Recipe.base_digest == model.base_digest)
        .options(selectinload(Recipe.items))
        .limit(2)
    ).all()
    here = [row for row in rows if all(revision for _, revision in compositions.described(session, model, row))]
    if len(here) != 1:
        many = "has more than one recipe" if here else "has no recipe"
        raise RevisionNotFound(
            f"{model.full_name} {many} {prefix}; compose it with `crumb compose {model.full_name} N`, "
            "which prints the digest."
        )
    items = [(item.sha256, item.weight) for item in here[0].items]
    return recipes.make_recipe(here[0].base_digest, here[0].alpha, items)


def of_recipe(
    session: Session, actor: Actor | None, model: Model, recipe: recipes.Recipe, number: str | None
) -> Snapshot:
    """Return the composition of a recipe.

    Raises:
        NotComposed: it has to be composed first; says how to ask for it.
    """
    composition = compositions.composition_of(session, model, recipe.digest)
    if composition is None:
        subject = f"{model.full_name} with patch #{number}" if number else f"The recipe {recipe.digest[:12]}"
        raise NotComposed(
            f"{subject} is not composed yet. Whoever may push can have it composed: with a token of the scope "
            f"'push' by asking for this revision again, or by `crumb compose {model.full_name} {number or 'N'}`."
        )
    found = snapshots.of_recipe(session, actor, model, composition)
    return replace(found, fixed=False) if number else found


def compose(session: Session, actor: Actor, model: Model, ref: str) -> Job | None:
    """Ask for the composition of a pull request or a recipe, as `crumb compose` does; None when it is there.

    The caller holds the model's lock.

    Raises:
        RevisionNotFound: it cannot be composed; says why.
    """
    ref = short(ref)
    pull = PULL.fullmatch(ref)
    try:
        if pull is not None:
            items = [Ingredient(int(pull[1]))]
            _, _, job = compositions.request(session, actor, model.full_name, recipes.ALPHA, items)
            return job
        recipe = known_recipe(session, model, ref.removeprefix("recipe-"))
        row = compositions.save(session, recipe)
        compositions.require_ingredients(session, model, row)
        _, job = compositions.ask(session, actor, model, row)
        return job
    except InvalidInput as why:
        raise RevisionNotFound(why.message) from None


def refs(session: Session, actor: Actor | None, model: Model, *, pulls: bool) -> list[Ref]:
    """Return the names of a model's revisions: branches, tags, and when asked for the pull requests composed so far."""
    assert model.base_commit is not None
    found = []
    with suppress(Forbidden):  # what it holds is quarantined
        found.append(Ref("branch", "main", snapshots.default_snapshot(session, actor, model).commit))
    channels = (
        select(Channel.name, Release)
        .join(Release, Release.id == Channel.release_id)
        .where(Channel.model_id == model.id)
        .order_by(Channel.name)
    )
    hidden = set() if actor and actor.admin else quarantined(session, model)
    found += [
        Ref("branch", name, release.commit)
        for name, release in session.execute(channels)
        if release.commit and release.recipe_digest not in hidden
    ]
    found.append(Ref("branch", "base", model.base_commit))
    published = select(Release).where(Release.model_id == model.id, Release.state.in_(snapshots.PUBLISHED))
    found += [
        Ref("tag", release.version, release.commit)
        for release in session.scalars(published.order_by(Release.sort))
        if release.commit and release.recipe_digest not in hidden
    ]
    return found + (composed_pulls(session, actor, model) if pulls else [])


def quarantined(session: Session, model: Model) -> set[str]:
    """Return the recipes that hold a quarantined patch of a model, which only admins are served."""
    return set(
        session.scalars(
            select(RecipeItem.recipe_digest)
            .join(PatchRevision, PatchRevision.sha256 == RecipeItem.sha256)
            .join(Patch, Patch.id == PatchRevision.patch_id)
            .where(Patch.model_id == model.id, Patch.quarantined_at.is_not(None), PatchRevision.state == "checked")
        )
    )


def composed_pulls(session: Session, actor: Actor | None, model: Model) -> list[Ref]:
    """Return the pull requests of a model that have been composed, by number."""
    assert model.base_digest is not None
    query = patches.revisions().where(Patch.model_id == model.id, PatchRevision.number == Patch.revision)
    query = query.where(PatchRevision.state == "checked")
    if not (actor and actor.admin):
        query = query.where(Patch.quarantined_at.is_(None))
    digests = {
        recipes.make_recipe(model.base_digest, recipes.ALPHA, [(revision.sha256, "1")]).digest: revision.patch.number
        for revision in session.scalars(query)
    }
    made = select(Composition.recipe_digest, Composition.commit).where(
        Composition.model_id == model.id, Composition.recipe_digest.in_(digests)
    )
    found = [(digests[digest], commit) for digest, commit in session.execute(made)]
    return [Ref("pull", f"refs/pr/{number}", commit) for number, commit in sorted(found)]


def history(session: Session, model: Model, snapshot: Snapshot, start: int = 0) -> Iterator[Commit]:
    """Yield what a revision has come from, newest first: releases, or a recipe, and at last the base.

    Args:
        session: A transaction, which is asked as far as the steps are taken.
        model: Whose revision it is.
        revision: The revision.
        start: Steps to leave out.
    """
    steps: list[Callable[[], Commit]] = []
    if snapshot.release is not None:
        steps += [partial(release_commit, session, model, row) for row in line(session, model, snapshot.release)]
    elif snapshot.recipe is not None:
        steps.append(partial(recipe_commit, session, model, snapshot, snapshot.recipe))
    steps.append(partial(base_commit, session, model))
    for step in steps[start:]:
        yield step()


def line(session: Session, model: Model, release: Release) -> Sequence[Release]:
    """Return a release and those before it, newest first."""
    earlier = session.scalars(
        select(Release)
        .where(
            Release.model_id == model.id,
            or_(Release.id == release.id, Release.state.in_(snapshots.PUBLISHED)),
            Release.sort <= release.sort,
        )
        .options(joinedload(Release.creator), joinedload(Release.publisher))
        .order_by(Release.sort.desc())
    ).all()
    by_version = {row.version: row for row in earlier}
    found, version = [], release.version
    while version in by_version:
        found.append(by_version.pop(version))
        version = found[-1].previous_version or ""
    return found


def base_commit(session: Session, model: Model) -> Commit:
    """Return the base as the first commit."""
    base = snapshots.base_snapshot(session, model)
    return Commit(base.commit, "Base model", f"weights {base.weights_digest}", base.made_at, [model.creator.name])


def recipe_commit(session: Session, model: Model, snapshot: Snapshot, recipe: Recipe) -> Commit:
    """Return a composition as a commit by who contributed."""
    named = compositions.described(session, model, recipe)
    title = f"Compose {recipe.digest[:12]}"
    return Commit(snapshot.commit, title, contents(named), snapshot.made_at, contributors(named))


def release_commit(session: Session, model: Model, release: Release) -> Commit:
    """Return a release as a commit by who published it and who contributed."""
    named = compositions.described(session, model, compositions.load(session, release.recipe_digest))
    composition = compositions.composition_of(session, model, release.recipe_digest)
    assert composition is not None
    who = (release.publisher or release.creator).name
    return Commit(
        release.commit or composition.commit,
        f"Release {release.version}",
        release.changelog,
        release.published_at or composition.created_at,
        list(dict.fromkeys([who, *contributors(named)])),
    )


def contents(named: Sequence[tuple[object, PatchRevision | None]]) -> str:
    """Return a line for each patch of a recipe."""
    return "\n".join(f"#{found.patch.number} {found.title}" for _, found in named if found)


def contributors(named: Sequence[tuple[object, PatchRevision | None]]) -> list[str]:
    """Return who has contributed the patches of a recipe."""
    return list(dict.fromkeys(found.patch.author.name for _, found in named if found))


def ready(session: Session, full_name: str, *, lock: bool = False) -> Model:
    """Return a model whose base has been checked, locked when asked.

    Raises:
        RevisionNotFound: it is still being checked: a repository without a commit.
    """
    model = models.find(session, full_name, lock=lock)
    if model.state != "ready":
        raise RevisionNotFound(f"The base of {full_name} is still being checked; try again in a moment.")
    return model

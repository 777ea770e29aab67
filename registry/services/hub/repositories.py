"""A model as a repository of the Hub: its refs (branches, tags, pull requests), commits and history.

    main, HEAD                the channel `stable`, else the newest published release, else the base
    1.2.0, refs/tags/1.2.0    a release                         a tag, once published
    stable, refs/heads/...    the release a channel points at   a branch
    base                      the base                          a branch
    refs/pr/12                base + patch #12                  a pull request
    recipe-<8 to 64 hex>      a recipe
    <7 to 40 hex>             a commit: the files of any of these, which never change

A recipe that is not composed yet is composed on demand, for callers who may compose.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session, joinedload, load_only, selectinload

from registry.breadcrumbs.formats import recipe as recipes
from registry.breadcrumbs.formats.recipe import ALONE
from registry.db.session import seen
from registry.db.tables import Channel, Composition, Job, Model, Patch, PatchRevision, Recipe, RecipeItem, Release
from registry.errors import Forbidden, InvalidInput, NotComposed, RevisionNotFound, WrongState
from registry.services.catalog import models, patches
from registry.services.composing import compositions, mixes, snapshots
from registry.services.composing.mixes import Ingredient, Mix
from registry.services.composing.snapshots import Snapshot
from registry.services.people.access import AnyModel, Glance
from registry.services.people.actors import Actor

COMMIT = re.compile(r"[0-9a-f]{7,40}")
PULL = re.compile(r"refs/pr/([1-9][0-9]{0,8})")
MOST_PULLS = 1000  # that a list of refs has
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


def find(session: Session, actor: Actor | None, model: AnyModel, ref: str) -> Snapshot:
    """Return the snapshot that a revision of the Hub stands for.

    Raises:
        RevisionNotFound: The model has no such revision; the message gives the next step.
        NotComposed: The revision is a recipe that has to be composed first.
        Forbidden: The snapshot holds a quarantined patch, and the caller is not an admin.
    """
    name = short_ref(ref)
    if not name.isprintable():  # a database refuses NUL
        raise RevisionNotFound(f"{model.full_name} has no revision {ref!r}.")
    if (pull := PULL.fullmatch(name)) is not None:
        return of_recipe(session, actor, model, of_patch(session, model, int(pull[1])), pull[1])
    if COMMIT.fullmatch(name) and (snapshot := snapshots.of_commit(session, actor, model, name)) is not None:
        return snapshot
    if (recipe := RECIPE.fullmatch(name)) is not None:
        return of_recipe(session, actor, model, known_recipe(session, model, recipe[1]), None)
    try:
        return snapshots.find(session, actor, model, name)
    except InvalidInput as why:  # too few digits
        raise RevisionNotFound(why.message) from None


def short_ref(ref: str) -> str:
    """Return a ref without the prefix of branches and tags."""
    return re.sub(r"^refs/(heads|tags)/", "", "main" if ref == "HEAD" else ref)


def of_patch(session: Session, model: AnyModel, number: int) -> recipes.Recipe:
    """Return the recipe of one patch as it is, at alpha 1, whether or not it was yanked.

    Raises:
        RevisionNotFound: The patch does not exist, or cannot be composed.
    """
    try:
        return mixes.choose(session, model, Mix([Ingredient(number)], ALONE, allow_yanked=True))
    except InvalidInput as why:
        raise RevisionNotFound(why.message) from None


def known_recipe(session: Session, model: AnyModel, prefix: str) -> recipes.Recipe:
    """Return the recipe whose digest starts with a prefix, if it was asked for before and all its patches are listed.

    Raises:
        RevisionNotFound: No recipe starts with this prefix, or more than one does.
    """
    rows = session.scalars(
        select(Recipe)
        .where(Recipe.digest.startswith(prefix), Recipe.base_digest == model.base_digest)
        .options(selectinload(Recipe.items))
        .limit(2)
    ).all()
    usable = [row for row in rows if all(revision for _, revision in compositions.described(session, model, row))]
    if len(usable) != 1:
        many = "has more than one recipe" if usable else "has no recipe"
        raise RevisionNotFound(
            f"{model.full_name} {many} {prefix}; compose it with `crumb compose {model.full_name} N`, "
            "which prints the digest."
        )
    return compositions.to_recipe(usable[0])


def of_recipe(
    session: Session, actor: Actor | None, model: AnyModel, recipe: recipes.Recipe, number: str | None
) -> Snapshot:
    """Return the composition of a recipe as a snapshot; of a pull request, with the files that came with its patch.

    Raises:
        NotComposed: The recipe has to be composed first; the message says how.
    """
    composition = compositions.composition_of(session, model, recipe.digest)
    if composition is None:
        subject = f"{model.full_name} with patch #{number}" if number else f"The recipe {recipe.digest[:12]}"
        raise NotComposed(
            f"{subject} is not composed yet. To have it composed, ask for this revision with a token of the scope "
            f"'push', or run `crumb compose {model.full_name} {number or 'N'}`."
        )
    if not number:
        return snapshots.of_recipe(session, actor, model, composition)
    (revision,) = patches.by_digest(session, model, [item.sha256 for item in recipe.items]).values()
    return replace(snapshots.of_patch(session, actor, model, composition, revision), fixed=False)


def compose(session: Session, actor: Actor, model: Model, ref: str) -> Job | None:
    """Ask for the composition of a pull request or a recipe, as `crumb compose` does; None if it is composed.

    The caller holds the model's lock.

    Raises:
        RevisionNotFound: The revision cannot be composed; the message says why.
    """
    ref = short_ref(ref)
    pull = PULL.fullmatch(ref)
    try:
        if pull is not None:
            mix = Mix([Ingredient(int(pull[1]))], ALONE)
            _, _, job = compositions.request(session, actor, model.full_name, mix)
            return job
        recipe = known_recipe(session, model, ref.removeprefix("recipe-"))
        row = compositions.save(session, recipe)
        compositions.require_ingredients(session, model, row)
        _, job = compositions.ask(session, actor, model, row)
        return job
    except InvalidInput as why:
        raise RevisionNotFound(why.message) from None


def refs(session: Session, actor: Actor | None, model: Model, *, pulls: bool) -> list[Ref]:
    """Return a model's refs: branches, tags, and with `pulls` the pull requests composed so far."""
    assert model.base_commit is not None
    named = []
    with suppress(Forbidden):  # it holds a quarantined patch
        named.append(Ref("branch", "main", snapshots.default_snapshot(session, actor, model).commit))
    channels = (
        select(Channel.name, Release.commit, Release.recipe_digest)
        .join(Release, Release.id == Channel.release_id)
        .where(Channel.model_id == model.id)
        .order_by(Channel.name)
    )
    hidden = set() if actor and actor.admin else quarantined(session, model)
    named += [
        Ref("branch", name, commit)
        for name, commit, digest in session.execute(channels)
        if commit and digest not in hidden
    ]
    named.append(Ref("branch", "base", model.base_commit))
    columns = select(Release.version, Release.commit, Release.recipe_digest)
    published = columns.where(Release.model_id == model.id, Release.state.in_(snapshots.PUBLISHED))
    named += [
        Ref("tag", version, commit)
        for version, commit, digest in session.execute(published.order_by(Release.sort))
        if commit and digest not in hidden
    ]
    return named + (composed_pulls(session, actor, model) if pulls else [])


def quarantined(session: Session, model: Model) -> set[str]:
    """Return the recipes that hold a quarantined patch of a model; only admins may download their compositions."""
    return set(
        session.scalars(
            select(RecipeItem.recipe_digest)
            .join(PatchRevision, PatchRevision.sha256 == RecipeItem.sha256)
            .join(Patch, Patch.id == PatchRevision.patch_id)
            .where(Patch.model_id == model.id, Patch.quarantined_at.is_not(None), PatchRevision.state == "checked")
        )
    )


def composed_pulls(session: Session, actor: Actor | None, model: Model) -> list[Ref]:
    """Return the pull requests of a model that were composed, by number; of very many, those composed last."""
    # The only item of a recipe, by aggregates: as a join, PostgreSQL would read the items of all recipes.
    items = select(func.min(RecipeItem.sha256)).where(RecipeItem.recipe_digest == Composition.recipe_digest)
    plain = func.min(RecipeItem.weight) == "1", func.count(RecipeItem.factors) == 0
    alone = items.having(func.count() == 1, *plain).scalar_subquery()
    query = (
        select(Patch.number, func.coalesce(PatchRevision.commit, Composition.commit))
        .select_from(Composition)
        .join(Recipe, Recipe.digest == Composition.recipe_digest)
        .join(PatchRevision, PatchRevision.sha256 == alone)
        .join(Patch, Patch.id == PatchRevision.patch_id)
        .where(Composition.model_id == model.id, Patch.model_id == model.id)
        .where(Recipe.base_digest == model.base_digest, Recipe.alpha == ALONE, Recipe.method == "sum")
        .where(Patch.revision == PatchRevision.number, PatchRevision.state == "checked")
        .order_by(Composition.created_at.desc())
        .limit(MOST_PULLS)
    )
    if not (actor and actor.admin):
        query = query.where(Patch.quarantined_at.is_(None))
    numbered = sorted((number, commit) for number, commit in session.execute(query))
    return [Ref("pull", f"refs/pr/{number}", commit) for number, commit in numbered]


def history(session: Session, model: Model, snapshot: Snapshot, start: int, limit: int) -> list[Commit]:
    """Return a page of the history of a snapshot, newest commit first: releases, or a recipe, and finally the base.

    Args:
        session: A transaction.
        model: The model.
        snapshot: The snapshot.
        start: How many commits to skip.
        limit: Most commits to return.
    """
    length, steps = 0, list[Commit]()
    if snapshot.release_id is not None:
        chain = preceding(session, model, snapshot.release_id)
        length, steps = len(chain), release_commits(session, model, chain[start : start + limit])
    elif (recipe := snapshots.recipe_of(session, snapshot)) is not None:
        length, steps = 1, [recipe_commit(session, model, snapshot, recipe)][start : start + limit]
    return [*steps, base_commit(session, model)] if start <= length < start + limit else steps


def preceding(session: Session, model: Model, release_id: UUID) -> Sequence[UUID]:
    """Return the keys of a release and of the releases that precede it, newest first."""
    release = session.execute(select(Release.id, Release.version, Release.sort).where(Release.id == release_id)).one()
    earlier = session.execute(
        select(Release.version, Release.previous_version, Release.id).where(
            Release.model_id == model.id,
            or_(Release.id == release.id, Release.state.in_(snapshots.PUBLISHED)),
            Release.sort <= release.sort,
        )
    )
    by_version = {version: (key, before) for version, before, key in earlier}
    chain, version = [], release.version
    while version in by_version:
        key, before = by_version.pop(version)
        chain.append(key)
        version = before or ""
    return chain


def base_commit(session: Session, model: Model) -> Commit:
    """Return the base as the first commit."""
    base = snapshots.base_snapshot(session, model)
    return Commit(base.commit, "Base model", f"weights {base.weights_digest}", base.made_at, [model.creator])


def recipe_commit(session: Session, model: Model, snapshot: Snapshot, recipe: Recipe) -> Commit:
    """Return a composition as a commit, by its contributors."""
    named = compositions.described(session, model, recipe)
    title = f"Compose {recipe.digest[:12]}"
    return Commit(snapshot.commit, title, contents(named), snapshot.made_at, contributors(named))


def release_commits(session: Session, model: Model, keys: Sequence[UUID]) -> list[Commit]:
    """Return releases as commits, in the order of their keys, each by its publisher and contributors."""
    columns = ("version", "recipe_digest", "commit", "changelog", "published_at")
    rows = session.scalars(
        select(Release)
        .where(Release.id.in_(keys))
        .options(load_only(*(getattr(Release, name) for name in columns)))
        .options(joinedload(Release.creator), joinedload(Release.publisher))
    )
    releases = {row.id: row for row in rows}
    digests = {row.recipe_digest for row in releases.values()}
    composed = select(Composition.recipe_digest, Composition.commit, Composition.created_at)
    composed = composed.where(Composition.model_id == model.id, Composition.recipe_digest.in_(digests))
    results = {digest: (commit, at) for digest, commit, at in session.execute(composed)}
    items = select(RecipeItem.recipe_digest, RecipeItem.sha256).where(RecipeItem.recipe_digest.in_(digests))
    known, inside = compositions.held(session, model, digests), defaultdict[str, list[str]](list)
    for digest, sha256 in session.execute(items.order_by(RecipeItem.sha256)):
        inside[digest].append(sha256)
    commits = []
    for row in (releases[key] for key in keys):
        authors = contributors([(None, known.get(sha256)) for sha256 in inside[row.recipe_digest]])
        names = list(dict.fromkeys([(row.publisher or row.creator).name, *authors]))
        title = f"Release {row.version}"
        made = results.get(row.recipe_digest, (None, None))
        commit, at = row.commit or made[0], row.published_at or made[1]
        assert commit is not None and at is not None
        commits.append(Commit(commit, title, row.changelog, at, names))
    return commits


def contents(named: Sequence[tuple[object, PatchRevision | None]]) -> str:
    """Return a line for each patch of a recipe."""
    return "\n".join(f"#{revision.patch.number} {revision.title}" for _, revision in named if revision)


def contributors(named: Sequence[tuple[object, PatchRevision | None]]) -> list[str]:
    """Return the authors of the patches of a recipe."""
    return list(dict.fromkeys(revision.patch.author.name for _, revision in named if revision))


def glance(session: Session, full_name: str) -> AnyModel:
    """Return a model whose base was checked, as its reader was admitted to it: on some routes a `Glance` is enough.

    Raises:
        RevisionNotFound: As for `ready`.
    """
    model = seen(session).get(full_name)
    if not isinstance(model, Glance):
        return ready(session, full_name)
    require_ready(model)
    return model


def ready(session: Session, full_name: str, *, lock: bool = False) -> Model:
    """Return a model whose base was checked, and lock it with `lock`.

    Raises:
        RevisionNotFound: The base is still being checked: to the Hub's clients, a repository without a commit.
    """
    model = models.find(session, full_name, lock=lock)
    require_ready(model)
    return model


def require_ready(model: AnyModel) -> None:
    """Refuse a model that has no base yet, or whose base is still being checked."""
    try:
        models.require_ready(model)
    except WrongState as why:
        raise RevisionNotFound(why.message) from None

"""Snapshots: what a name of a model's contents (`ref`) stands for, and with which warnings.

main               the channel `stable`, else the newest published release, else the base
base               the base; so does its weights digest
1.2.0              a release
stable, beta, …    the release that a channel points at
3f9c0a1b           a composed recipe, by 8 or more digits of its digest; else a commit, by 8 or more of its 40 digits
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, outerjoin, select
from sqlalchemy.orm import QueryableAttribute, Session

from registry.db.tables import (
    BaseFile,
    Blob,
    Channel,
    Composition,
    CompositionFile,
    Model,
    Patch,
    PatchRevision,
    Recipe,
    RecipeItem,
    Release,
    ReleaseFile,
    RevisionFile,
)
from registry.errors import EntryNotFound, Forbidden, RevisionNotFound, WrongState
from registry.services.catalog import models
from registry.services.composing import alone, builds, compositions
from registry.services.people.access import MODEL, AnyModel, Glance
from registry.services.people.actors import Actor

DEFAULT = "main"
PREFIX = re.compile(r"(?:sha256:|recipe-)?([0-9a-f]{8,64})")
PUBLISHED = ("published", "yanked")
VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+.*")


# What most downloads ask, built once, since building a statement takes longer than running it; and of the tables' own
# columns, since making an object of each row does, too.
RELEASE, COMPOSITION, CHANNEL, BLOB = (table.__table__.c for table in (Release, Composition, Channel, Blob))
PATCH, REVISION, ITEM = Patch.__table__.c, PatchRevision.__table__.c, RecipeItem.__table__.c


NOT_IN_ORDER = or_(PATCH.quarantined_at.is_not(None), PATCH.state == "yanked")
HELD = (PATCH.id == REVISION.patch_id, REVISION.state == "checked", REVISION.sha256 == ITEM.sha256)
FLAWS = (
    select(*PATCH["number", "state", "reason", "quarantined_at", "quarantine_reason"])
    .where(*HELD, ITEM.recipe_digest == bindparam("recipe"), PATCH.model_id == bindparam("model"), NOT_IN_ORDER)
    .distinct()
    .order_by(PATCH.number)
)
FLAWED = (
    select(PATCH.id)
    .where(*HELD, ITEM.recipe_digest == RELEASE.recipe_digest, PATCH.model_id == RELEASE.model_id, NOT_IN_ORDER)
    .correlate(Release.__table__)
    .exists()
)
STABLE = select(CHANNEL.release_id).where(CHANNEL.name == "stable")
COLUMNS = (
    *RELEASE["id", "version", "state", "recipe_digest", "commit", "published_at", "yank_reason"],
    FLAWED,
    STABLE.where(CHANNEL.model_id == RELEASE.model_id).correlate(Release.__table__).scalar_subquery() == RELEASE.id,
    *COMPOSITION["id", "weights_digest", "commit", "created_at", "warnings"],
)  # of a ReleaseRow
COMPOSED = and_(COMPOSITION.model_id == RELEASE.model_id, COMPOSITION.recipe_digest == RELEASE.recipe_digest)
RELEASED = (
    select(*COLUMNS)
    .select_from(outerjoin(Release.__table__, Composition.__table__, COMPOSED))
    .where(RELEASE.model_id == bindparam("model"))
)
LATER = Release.__table__.alias("later").c


def main_of(model: ColumnElement[UUID] | QueryableAttribute[UUID]) -> ColumnElement[UUID]:
    """Return the query for the release that `main` of a model stands for."""
    stable = STABLE.where(CHANNEL.model_id == model)
    newest = select(LATER.id).where(LATER.model_id == model, LATER.state == "published").order_by(LATER.sort.desc())
    queries = (query.correlate(Model.__table__).scalar_subquery() for query in (stable, newest.limit(1)))
    return func.coalesce(*queries)


MAIN = RELEASED.where(RELEASE.id == main_of(bindparam("model", type_=RELEASE.model_id.type)))
BY_VERSION = RELEASED.where(RELEASE.version == bindparam("version"))
BY_COMMIT = RELEASED.where(RELEASE.commit.startswith(bindparam("commit"))).order_by(RELEASE.sort).limit(1)
BY_ID = RELEASED.where(RELEASE.id == bindparam("release"))


def files_in(table: type[BaseFile | CompositionFile | ReleaseFile | RevisionFile], owner: str) -> Select[Any]:
    """Return the query for the files of a base, a composition or a release, or beside a patch, by path."""
    file = table.__table__.c
    query = select(file.path, *BLOB["sha256", "size", "state", "bucketed_at", "damaged_at"])
    return query.where(file.sha256 == BLOB.sha256, file[owner] == bindparam("owner")).order_by(file.path)


BASE_FILES = files_in(BaseFile, "model_id")
COMPOSED_FILES = files_in(CompositionFile, "composition_id")
RELEASED_FILES = files_in(ReleaseFile, "release_id")
FILES_BESIDE = files_in(RevisionFile, "revision_id")


class ReleaseRow(NamedTuple):
    """A release, as COLUMNS read it: whether a patch of it is yanked or quarantined, and what it was composed to."""

    id: UUID
    version: str
    state: str
    recipe_digest: str
    commit: str | None
    published_at: datetime | None
    yank_reason: str | None
    flawed: bool
    stable: bool
    composition: UUID | None
    weights_digest: str | None
    composed: str | None
    composed_at: datetime | None
    cautions: list[str] | None


class File(NamedTuple):
    """A file of a snapshot, with what its blob is: see `Blob`."""

    path: str
    sha256: str
    size: int
    state: str
    bucketed_at: datetime | None
    damaged_at: datetime | None


@dataclass(frozen=True)
class Snapshot:
    """A model that can be pulled: the base (no `recipe_digest`), a composition, or a release of one.

    `ref` is `base`, a recipe digest or a version; if `fixed`, it always stands for the same files. `commit` is the
    Hub's name for the files, `made_at` the time when they were made.
    """

    ref: str
    commit: str
    made_at: datetime
    weights_digest: str
    recipe_digest: str | None
    files: Sequence[File]
    release_id: UUID | None = None
    channel: str | None = None
    fixed: bool = True
    warnings: list[str] = field(default_factory=list)


def resolve(session: Session, actor: Actor | None, full_name: str, ref: str) -> tuple[Model, Snapshot]:
    """Return a model and the snapshot that `ref` stands for.

    Raises:
        RevisionNotFound: The model has nothing by that name; the message gives the next step.
        InvalidRequest: The prefix of a digest is too short or not unique.
        Forbidden: The snapshot holds a quarantined patch, and the caller is not an admin.
    """
    model = models.ready(session, full_name)
    return model, find(session, actor, model, ref)


def find(session: Session, actor: Actor | None, model: AnyModel, ref: str) -> Snapshot:
    """Return the snapshot of a model that `ref` stands for."""
    if ref == DEFAULT:
        return default_snapshot(session, actor, model)
    if ref in ("base", model.base_digest):
        return base_snapshot(session, model)
    if VERSION.fullmatch(ref):
        release = read_release(session, BY_VERSION, {"model": model.id, "version": ref})
        return of_release(session, actor, model, release or unknown_release(model, ref))
    channel = session.scalar(select(Channel).where(Channel.model_id == model.id, Channel.name == ref))
    if channel is not None:
        return of_channel(session, actor, model, channel)
    if (prefix := PREFIX.fullmatch(ref)) is None:
        raise RevisionNotFound(
            f"{model.full_name} has no '{ref}'; give a version, a channel, base, or 8 or more digits of a recipe."
        )
    try:
        return of_recipe(session, actor, model, find_composition(session, model, prefix[1]))
    except RevisionNotFound:
        if (snapshot := of_commit(session, actor, model, ref)) is None:
            raise
        return snapshot


def default_snapshot(session: Session, actor: Actor | None, model: AnyModel) -> Snapshot:
    """Return the snapshot that `main` stands for."""
    release = default_release(session, model)
    if release is None:
        return base_snapshot(session, model)
    return of_release(session, actor, model, release, "stable" if release.stable else None)


def default_release(session: Session, model: AnyModel) -> ReleaseRow | None:
    """Return the release that `main` stands for, if any."""
    if isinstance(model, Glance):
        row = ReleaseRow._make(model.more)
        return row if row.id else None
    return read_release(session, MAIN, {"model": model.id})


def read_release(session: Session, query: Select[Any], values: dict[str, Any]) -> ReleaseRow | None:
    """Return the release that a query on RELEASED finds, if any."""
    row = session.execute(query, values).one_or_none()
    return ReleaseRow._make(row) if row else None


def with_main(query: Select[Any]) -> Select[Any]:
    """Extend the query for a glance at a model by the release that `main` stands for, for `default_release`.

    Most requests of the Hub's clients are for `main`, and need little else of the model.
    """
    joined = outerjoin(Model.__table__, Release.__table__, RELEASE.id == main_of(MODEL.id))
    return query.add_columns(*COLUMNS).select_from(outerjoin(joined, Composition.__table__, COMPOSED))


def base_snapshot(session: Session, model: AnyModel) -> Snapshot:
    """Return the base of a model as a snapshot."""
    assert model.base_digest is not None and model.base_commit is not None
    files = list_files(session, BASE_FILES, model.id)
    return Snapshot("base", model.base_commit, model.created_at, model.base_digest, None, files)


def list_files(session: Session, query: Select[Any], owner: UUID) -> list[File]:
    """Return the files of a base, a composition or a release, or beside a patch, by path."""
    return [File._make(row) for row in session.execute(query, {"owner": owner})]


def of_channel(session: Session, actor: Actor | None, model: AnyModel, channel: Channel) -> Snapshot:
    """Return the release that a channel points at.

    Raises:
        RevisionNotFound: The channel points at no release yet.
    """
    if channel.release_id is None:
        raise RevisionNotFound(
            f"The channel {model.full_name}@{channel.name} points at no release yet; move it to one first."
        )
    release = read_release(session, BY_ID, {"model": model.id, "release": channel.release_id})
    assert release is not None
    return of_release(session, actor, model, release, channel.name)


def find_release(session: Session, model: AnyModel, version: str) -> Release:
    """Return a release by its version.

    Raises:
        RevisionNotFound: No such release exists.
    """
    release = session.scalar(select(Release).where(Release.model_id == model.id, Release.version == version))
    return release or unknown_release(model, version)


def unknown_release(model: AnyModel, version: str) -> NoReturn:
    """Refuse a version that no release has."""
    raise RevisionNotFound(
        f"There is no release {model.full_name}@{version}; see `crumb release list {model.full_name}`."
    )


def of_release(
    session: Session, actor: Actor | None, model: AnyModel, release: ReleaseRow, channel: str | None = None
) -> Snapshot:
    """Return a release, as RELEASED reads it: with its own files once published, with its composition's before.

    A candidate that takes files from patches has these, too, in place of the composition's.

    Raises:
        WrongState: The release is not composed yet.
    """
    subject = f"{model.full_name}@{release.version}"
    recipe = release.recipe_digest
    if release.composition is None:
        raise WrongState(f"{subject} is {release.state} and not composed yet; try again in a moment.")
    warnings = patch_warnings(session, actor, model, subject, recipe) if release.flawed else []
    warnings += release.cautions or []
    fixed = release.state in PUBLISHED
    if fixed:
        commit, made_at = release.commit, release.published_at
        files = list_files(session, RELEASED_FILES, release.id)
    else:
        commit, made_at = release.composed, release.composed_at
        files = list_files(session, COMPOSED_FILES, release.composition)
        if release.commit is not None:
            commit = release.commit
            files = in_place(files, list_files(session, RELEASED_FILES, release.id))
        warnings.insert(0, f"{subject} is a {release.state} and not published; it may still change.")
    if release.state == "yanked":
        warnings.insert(0, f"{subject} was yanked: {release.yank_reason}")
    digest = release.weights_digest
    assert commit is not None and made_at is not None and digest is not None
    return Snapshot(release.version, commit, made_at, digest, recipe, files, release.id, channel, fixed, warnings)


def in_place(files: Sequence[File], others: Sequence[File]) -> list[File]:
    """Return files with others in place of those with the same paths, or beside them, by path."""
    return sorted({file.path: file for file in (*files, *others)}.values())


def of_commit(session: Session, actor: Actor | None, model: AnyModel, commit: str) -> Snapshot | None:
    """Return the snapshot with a commit id that starts with these digits; None if there is none."""
    if model.base_commit is not None and model.base_commit.startswith(commit):
        return base_snapshot(session, model)
    release = read_release(session, BY_COMMIT, {"model": model.id, "commit": commit})
    if release is not None:
        return of_release(session, actor, model, release)
    composition = session.scalar(
        select(Composition)
        .where(Composition.model_id == model.id, Composition.commit.startswith(commit))
        .order_by(Composition.commit)
        .limit(1)
    )
    if composition is not None:
        return of_recipe(session, actor, model, composition)
    revision = alone.by_commit(session, model, commit)
    if revision is not None:
        composition = compositions.composition_of(session, model, alone.recipe_of(revision).digest)
    return of_patch(session, actor, model, composition, revision) if revision and composition else None


def find_composition(session: Session, model: AnyModel, prefix: str) -> Composition:
    """Return a composition by its recipe's digest, or by a prefix of it.

    Raises:
        RevisionNotFound: No composed recipe has this digest.
        InvalidRequest: More than one recipe starts with this prefix.
    """
    rows = session.scalars(
        select(Composition)
        .where(Composition.model_id == model.id, Composition.recipe_digest.startswith(prefix))
        .limit(2)
    ).all()
    if not builds.require_one(rows, model, prefix):
        raise RevisionNotFound(
            f"{model.full_name} has no composed recipe {prefix}; compose it first with `crumb compose`."
        )
    return rows[0]


def of_recipe(session: Session, actor: Actor | None, model: AnyModel, composition: Composition) -> Snapshot:
    """Return a composition as a snapshot."""
    recipe = composition.recipe_digest
    warnings = patch_warnings(session, actor, model, f"{model.full_name}@{recipe[:12]}", recipe) + composition.warnings
    made = composition.commit, composition.created_at, composition.weights_digest
    return Snapshot(recipe, *made, recipe, list_files(session, COMPOSED_FILES, composition.id), warnings=warnings)


def of_patch(
    session: Session, actor: Actor | None, model: AnyModel, composition: Composition, revision: PatchRevision
) -> Snapshot:
    """Return a patch alone as a snapshot: its composition, with the files that came with it in place of the base's."""
    snapshot = of_recipe(session, actor, model, composition)
    if revision.commit is None:
        return snapshot
    files = in_place(snapshot.files, list_files(session, FILES_BESIDE, revision.id))
    return replace(snapshot, commit=revision.commit, files=files)


def patch_warnings(session: Session, actor: Actor | None, model: AnyModel, subject: str, recipe: str) -> list[str]:
    """Return a sentence for every yanked patch of a recipe.

    Raises:
        Forbidden: A patch is quarantined, and the caller is not an admin.
    """
    warnings = []
    for patch in session.execute(FLAWS, {"model": model.id, "recipe": recipe}):
        if patch.quarantined_at is not None:
            if not (actor and actor.admin):
                raise Forbidden(f"{subject} holds patch #{patch.number}, which is quarantined; it is not served.")
            warnings.append(f"Patch #{patch.number} is quarantined: {patch.quarantine_reason}")
        if patch.state == "yanked":
            warnings.append(f"{subject} holds patch #{patch.number}, which was yanked: {patch.reason}")
    return warnings


def recipe_of(session: Session, snapshot: Snapshot) -> Recipe | None:
    """Return the recipe of a snapshot with its items; None for the base."""
    return compositions.load(session, snapshot.recipe_digest) if snapshot.recipe_digest else None


def find_file(snapshot: Snapshot, path: str) -> File:
    """Return one file of a snapshot.

    Raises:
        EntryNotFound: The snapshot has no such file.
    """
    for file in snapshot.files:
        if file.path == path:
            return file
    raise EntryNotFound(f"There is no file {path!r} in this revision.")

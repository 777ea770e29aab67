"""Snapshots: what a name of a model's contents (`ref`) stands for, and with which warnings.

main               the channel `stable`, else the newest published release, else the base
base               the base; so does its weights digest
1.2.0              a release
stable, beta, …    the release that a channel points at
3f9c0a1b           a composed recipe, by 8 or more digits of its digest; else a commit, by 8 or more of its 40 digits
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, selectinload

from registry.db.tables import (
    BaseFile,
    Blob,
    Channel,
    Composition,
    CompositionFile,
    Model,
    PatchRevision,
    Recipe,
    Release,
    ReleaseFile,
)
from registry.errors import EntryNotFound, Forbidden, InvalidRequest, RevisionNotFound, WrongState
from registry.services.catalog import models
from registry.services.composing import compositions
from registry.services.people.actors import Actor

DEFAULT = "main"
PREFIX = re.compile(r"(?:sha256:|recipe-)?([0-9a-f]{8,64})")
PUBLISHED = ("published", "yanked")
VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+.*")


@dataclass(frozen=True)
class Snapshot:
    """A model that can be pulled: the base (no recipe), a composition, or a release of one.

    `ref` is `base`, a recipe digest or a version; if `fixed`, it always stands for the same files. `commit` is the
    Hub's name for the files, `made_at` the time when they were made.
    """

    ref: str
    commit: str
    made_at: datetime
    weights_digest: str
    recipe: Recipe | None
    files: Sequence[BaseFile | CompositionFile | ReleaseFile]
    release: Release | None = None
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


def find(session: Session, actor: Actor | None, model: Model, ref: str) -> Snapshot:
    """Return the snapshot of a model that `ref` stands for."""
    if ref == DEFAULT:
        return default_snapshot(session, actor, model)
    if ref in ("base", model.base_digest):
        return base_snapshot(session, model)
    if VERSION.fullmatch(ref):
        return of_release(session, actor, model, find_release(session, model, ref))
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


def default_snapshot(session: Session, actor: Actor | None, model: Model) -> Snapshot:
    """Return the snapshot that `main` stands for."""
    release, channel = default_release(session, model)
    return base_snapshot(session, model) if release is None else of_release(session, actor, model, release, channel)


def default_release(session: Session, model: Model) -> tuple[Release | None, str | None]:
    """Return the release that `main` stands for, if any, and the channel that points at it, if one does."""
    stable = session.scalar(
        select(Release)
        .join(Channel, Channel.release_id == Release.id)
        .where(Channel.model_id == model.id, Channel.name == "stable")
    )
    if stable is not None:
        return stable, "stable"
    newest = session.scalar(
        select(Release)
        .where(Release.model_id == model.id, Release.state == "published")
        .order_by(Release.sort.desc())
        .limit(1)
    )
    return newest, None


def base_snapshot(session: Session, model: Model) -> Snapshot:
    """Return the base of a model as a snapshot."""
    assert model.base_digest is not None and model.base_commit is not None
    files = models.base_files(session, model)
    return Snapshot("base", model.base_commit, model.created_at, model.base_digest, None, files)


def of_channel(session: Session, actor: Actor | None, model: Model, channel: Channel) -> Snapshot:
    """Return the release that a channel points at.

    Raises:
        RevisionNotFound: The channel points at no release yet.
    """
    if channel.release_id is None:
        raise RevisionNotFound(
            f"The channel {model.full_name}@{channel.name} points at no release yet; move it to one first."
        )
    release = session.get_one(Release, channel.release_id)
    return of_release(session, actor, model, release, channel.name)


def find_release(session: Session, model: Model, version: str) -> Release:
    """Return a release by its version.

    Raises:
        RevisionNotFound: No such release exists.
    """
    release = session.scalar(select(Release).where(Release.model_id == model.id, Release.version == version))
    if release is None:
        raise RevisionNotFound(
            f"There is no release {model.full_name}@{version}; see `crumb release list {model.full_name}`."
        )
    return release


def of_release(
    session: Session, actor: Actor | None, model: Model, release: Release, channel: str | None = None
) -> Snapshot:
    """Return a release as a snapshot: with its own files once published, with those of its composition before.

    Raises:
        WrongState: The release is not composed yet.
    """
    subject = f"{model.full_name}@{release.version}"
    composition = compositions.composition_of(session, model, release.recipe_digest)
    if composition is None:
        raise WrongState(f"{subject} is {release.state} and not composed yet; try again in a moment.")
    recipe = compositions.load(session, release.recipe_digest)
    revisions = compositions.described(session, model, recipe)
    warnings = patch_warnings(actor, subject, [revision for _, revision in revisions if revision])
    files: Sequence[CompositionFile | ReleaseFile] = composition.files
    commit, made_at = composition.commit, composition.created_at
    fixed = release.state in PUBLISHED
    if fixed:
        assert release.commit is not None and release.published_at is not None
        commit, made_at = release.commit, release.published_at
        files = session.scalars(
            select(ReleaseFile)
            .where(ReleaseFile.release_id == release.id)
            .options(joinedload(ReleaseFile.blob))
            .order_by(ReleaseFile.path)
        ).all()
    else:
        warnings.insert(0, f"{subject} is a {release.state} and not published; it may still change.")
    if release.state == "yanked":
        warnings.insert(0, f"{subject} was yanked: {release.yank_reason}")
    digest = composition.weights_digest
    return Snapshot(release.version, commit, made_at, digest, recipe, files, release, channel, fixed, warnings)


def of_commit(session: Session, actor: Actor | None, model: Model, commit: str) -> Snapshot | None:
    """Return the snapshot with a commit id that starts with these digits; None if there is none."""
    if model.base_commit is not None and model.base_commit.startswith(commit):
        return base_snapshot(session, model)
    release = session.scalar(
        select(Release)
        .where(Release.model_id == model.id, Release.state.in_(PUBLISHED), Release.commit.startswith(commit))
        .order_by(Release.sort)
        .limit(1)
    )
    if release is not None:
        return of_release(session, actor, model, release)
    composition = session.scalar(
        select(Composition)
        .where(Composition.model_id == model.id, Composition.commit.startswith(commit))
        .options(selectinload(Composition.files).joinedload(CompositionFile.blob))
        .order_by(Composition.commit)
        .limit(1)
    )
    return None if composition is None else of_recipe(session, actor, model, composition)


def find_composition(session: Session, model: Model, prefix: str) -> Composition:
    """Return a composition by its recipe's digest, or by a prefix of it.

    Raises:
        RevisionNotFound: No composed recipe has this digest.
        InvalidRequest: More than one recipe starts with this prefix.
    """
    rows = session.scalars(
        select(Composition)
        .where(Composition.model_id == model.id, Composition.recipe_digest.startswith(prefix))
        .options(selectinload(Composition.files).joinedload(CompositionFile.blob))
        .limit(2)
    ).all()
    if len(rows) > 1:
        raise InvalidRequest(
            f"More than one recipe of {model.full_name} starts with {prefix}; give more digits.", field="ref"
        )
    if not rows:
        raise RevisionNotFound(
            f"{model.full_name} has no composed recipe {prefix}; compose it first with `crumb compose`."
        )
    return rows[0]


def of_recipe(session: Session, actor: Actor | None, model: Model, composition: Composition) -> Snapshot:
    """Return a composition as a snapshot."""
    recipe = compositions.load(session, composition.recipe_digest)
    revisions = compositions.described(session, model, recipe)
    subject = f"{model.full_name}@{recipe.digest[:12]}"
    warnings = patch_warnings(actor, subject, [revision for _, revision in revisions if revision])
    made = composition.commit, composition.created_at, composition.weights_digest
    return Snapshot(recipe.digest, *made, recipe, composition.files, warnings=warnings)


def patch_warnings(actor: Actor | None, subject: str, revisions: Sequence[PatchRevision]) -> list[str]:
    """Return a sentence for every yanked patch.

    Raises:
        Forbidden: A patch is quarantined, and the caller is not an admin.
    """
    warnings = []
    for revision in sorted(revisions, key=lambda revision: revision.patch.number):
        patch = revision.patch
        if patch.quarantined_at is not None:
            if not (actor and actor.admin):
                raise Forbidden(f"{subject} holds patch #{patch.number}, which is quarantined; it is not served.")
            warnings.append(f"Patch #{patch.number} is quarantined: {patch.quarantine_reason}")
        if patch.state == "yanked":
            warnings.append(f"{subject} holds patch #{patch.number}, which was yanked: {patch.reason}")
    return warnings


def find_file(snapshot: Snapshot, path: str) -> Blob:
    """Return the blob of one file of a snapshot.

    Raises:
        EntryNotFound: The snapshot has no such file.
    """
    for file in snapshot.files:
        if file.path == path:
            return file.blob
    raise EntryNotFound(f"There is no file {path!r} in this revision.")

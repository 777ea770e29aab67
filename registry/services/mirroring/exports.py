"""Exports: pages of a model's rows for registries that mirror it, and the files that these rows name.

Whoever may read a model may have its rows: they hold what its pages show. A page is bounded, and read in one
transaction; what changes between two pages of a part is an event of the feed, after which the part is read again.
"""

import functools
import operator
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select
from sqlalchemy.orm import Session, selectinload

from registry.db.tables import (
    STORED,
    AuditEvent,
    BaseFile,
    Blob,
    Comment,
    Composition,
    CompositionFile,
    Model,
    Namespace,
    Patch,
    PatchRevision,
    Recipe,
    Release,
    ReleaseFile,
    RevisionFile,
    Table,
    User,
)
from registry.errors import EntryNotFound
from registry.files.folders import is_weights
from registry.services.mirroring.carried import KINDS, SEEN, Carried, Part, part_keys, queries
from registry.services.people import access
from registry.services.people.actors import Actor

FORMAT = 1  # of rows: a mirror takes only those of a format that it knows
ROWS = 500  # of a page
PAGE_BYTES = 4 * 2**20  # of the texts of a page, after which no more rows are added
TEXTS = ("card", "manifest", "changelog", "message", "before", "signature")  # columns that may be long


@dataclass
class Page:
    """Rows of a part of a model, each with its table, and what they refer to; `next` is how many came so far."""

    model: Model
    rows: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    people: list[tuple[User, Namespace]] = field(default_factory=list)
    recipe: Recipe | None = None
    blobs: list[tuple[str, int, str]] = field(default_factory=list)
    next: int | None = None


def event_hash(session: Session, serial: int) -> str | None:
    """Return the hash of an event of the log; None if there is none with this serial."""
    return session.scalar(select(AuditEvent.hash).where(AuditEvent.serial == serial))


def models(session: Session, actor: Actor | None, after: uuid.UUID | None, limit: int) -> list[tuple[uuid.UUID, str]]:
    """Return key and full name of the models with a base that the caller may see, in the order of their keys."""
    query = select(Model).where(access.visible(actor), Model.state == "ready").order_by(Model.id).limit(limit)
    if after is not None:
        query = query.where(Model.id > after)
    return [(model.id, model.full_name) for model in session.scalars(query)]


def parts(session: Session, model: Model, after: Part | None, limit: int) -> list[Part]:
    """Return the next parts of a model, in the order in which a mirror takes them over."""
    kinds = KINDS[KINDS.index(after.kind) if after else 0 :]
    found = [Part("model")] if after is None else []
    for kind in kinds:
        key = after.key if after and after.kind == kind else ""
        if (query := part_keys(model, kind, key, limit - len(found))) is not None and len(found) < limit:
            found += [Part(kind, str(key)) for key in session.scalars(query)]
    return found


def page(session: Session, model: Model, part: Part, skip: int) -> Page:
    """Return the rows of a part of a model after those that came before.

    Args:
        session: A reading transaction.
        model: The model, which the caller may read.
        part: The part.
        skip: How many rows came before.
    """
    digest = recipe_of(session, model, part)
    answer = Page(model)
    rows, more = rows_from(session, model, part, digest, skip)
    answer.next = skip + len(rows) if more else None
    newest = newest_revisions(session, [row for _, row in rows if isinstance(row, Patch)])
    answer.rows = [(one.name, values(one, row, newest)) for one, row in rows]
    people = {value for one, row in rows for name in one.people if (value := getattr(row, name)) is not None}
    answer.people = users(session, people)
    if digest is not None and skip == 0:
        answer.recipe = session.get(Recipe, digest, options=[selectinload(Recipe.items)])
    answer.blobs = files(session, model, [row for _, row in rows])
    return answer


def recipe_of(session: Session, model: Model, part: Part) -> str | None:
    """Return the digest of the recipe of a part, if it has one."""
    if part.kind == "release":
        mine = Release.model_id == model.id, Release.version == part.key
        return session.scalar(select(Release.recipe_digest).where(*mine))
    return part.key if part.kind == "recipe" else None


def rows_from(
    session: Session, model: Model, part: Part, digest: str | None, skip: int
) -> tuple[list[tuple[Carried, Table]], bool]:
    """Return the rows of a part after the first few that fit on a page, and whether there are more.

    How long their texts are is asked first, so that no more of them come into memory.
    """
    rows, size = list[tuple[Carried, Table]](), 0
    for one, query in queries(model, part, digest):
        texts = [func.coalesce(func.length(one.columns[name]), 0) for name in TEXTS if name in one.columns]
        length = functools.reduce(operator.add, texts, literal(0))
        lengths = session.scalars(query.with_only_columns(length).offset(skip).limit(ROWS + 1 - len(rows))).all()
        fitting = 0
        while fitting < len(lengths) and len(rows) + fitting < ROWS and size <= PAGE_BYTES:
            size += lengths[fitting]
            fitting += 1
        rows += [(one, row) for row in session.scalars(query.offset(skip).limit(fitting))] if fitting else []
        if fitting < len(lengths):
            return rows, True
        if not lengths and skip:
            skip -= session.scalars(select(func.count()).select_from(query.order_by(None).subquery())).one()
        else:
            skip = 0
    return rows, False


def newest_revisions(session: Session, patches: Sequence[Patch]) -> dict[uuid.UUID, int]:
    """Return the number of the newest revision of each patch that is carried."""
    query = select(PatchRevision.patch_id, func.max(PatchRevision.number)).group_by(PatchRevision.patch_id)
    keys = [patch.id for patch in patches]
    return dict(session.execute(query.where(PatchRevision.patch_id.in_(keys), PatchRevision.state.in_(SEEN))).all())


def values(one: Carried, row: Table, newest: dict[uuid.UUID, int]) -> dict[str, Any]:
    """Return the carried columns of a row as JSON has them."""
    answer = {name: plain(getattr(row, name)) for name in one.columns}
    if isinstance(row, Patch):
        answer["revision"] = newest.get(row.id, 0)  # one that is being checked comes once it is
    elif isinstance(row, Release) and row.state == "building":
        answer["state"] = "draft"  # whoever takes it over has no job for it
    elif isinstance(row, Comment) and row.hidden_at is not None:
        answer["message"] = ""
    return answer


def plain(value: Any) -> Any:
    """Return a value of a column as JSON has it."""
    if isinstance(value, uuid.UUID):
        return str(value)
    return value.isoformat() if isinstance(value, datetime) else value


def users(session: Session, keys: set[uuid.UUID]) -> list[tuple[User, Namespace]]:
    """Return users by their keys, each with their namespace, by name."""
    query = select(User, Namespace).join(Namespace, Namespace.name == User.name).where(User.id.in_(keys))
    return [(user, space) for user, space in session.execute(query.order_by(User.name))]


def files(session: Session, model: Model, rows: Sequence[Table]) -> list[tuple[str, int, str]]:
    """Return digest, size and place of the files that rows name, as far as they may be had.

    The place is `here` for those that are sent by `blob`, `hub` for those of a base that are at the Hub, and `composed`
    for weights of compositions.
    """
    composed: dict[str, bool] = {}
    for row in rows:
        if isinstance(row, BaseFile | RevisionFile) or (isinstance(row, PatchRevision) and row.state == "checked"):
            composed[row.sha256] = False
        elif isinstance(row, CompositionFile | ReleaseFile):
            composed[row.sha256] = composed.get(row.sha256, True) and is_weights(row.path)
    found = session.scalars(select(Blob).where(Blob.sha256.in_(composed)).order_by(Blob.sha256)).all()
    base = select(BaseFile.sha256).where(BaseFile.model_id == model.id, BaseFile.sha256.in_(composed))
    composed |= dict.fromkeys(session.scalars(base), False)
    allowed = set(session.scalars(select(Blob.sha256).where(Blob.sha256.in_(composed), may_have(model))))
    answer = []
    for blob in found:
        if composed[blob.sha256]:
            answer.append((blob.sha256, blob.size, "composed"))
        elif blob.state == "remote":
            answer.append((blob.sha256, blob.size, "hub"))
        elif blob.state in STORED and blob.sha256 in allowed:
            answer.append((blob.sha256, blob.size, "here"))
    return answer


def may_have(model: Model) -> ColumnElement[bool]:
    """Return the condition for blobs that a mirror of a model may have: no weights of compositions, no quarantine."""
    mine = Patch.model_id == model.id, Patch.quarantined_at.is_(None), PatchRevision.patch_id == Patch.id
    checked = and_(*mine, PatchRevision.state == "checked")
    taken = exists().where(*mine, PatchRevision.id == ReleaseFile.revision_id)
    return or_(
        exists().where(BaseFile.model_id == model.id, BaseFile.sha256 == Blob.sha256),
        exists().where(checked, PatchRevision.blob_sha256 == Blob.sha256),
        exists().where(checked, RevisionFile.revision_id == PatchRevision.id, RevisionFile.sha256 == Blob.sha256),
        exists().where(
            Composition.model_id == model.id,
            CompositionFile.composition_id == Composition.id,
            CompositionFile.sha256 == Blob.sha256,
            ~CompositionFile.path.endswith(".safetensors"),
        ),
        exists().where(
            Release.model_id == model.id,
            ReleaseFile.release_id == Release.id,
            ReleaseFile.sha256 == Blob.sha256,
            or_(taken, and_(ReleaseFile.revision_id.is_(None), ~ReleaseFile.path.endswith(".safetensors"))),
        ),
    )


def blob(session: Session, model: Model, sha256: str) -> Blob:
    """Return a blob that a mirror of a model may have.

    Raises:
        EntryNotFound: There is none of this digest.
    """
    found = session.scalar(select(Blob).where(Blob.sha256 == sha256, Blob.state.in_(STORED), may_have(model)))
    if found is None:
        raise EntryNotFound(f"{model.full_name} has no file {sha256} for a mirror.")
    return found

"""Imports: rows of a primary become rows here, in the transaction that has found out that they fit together.

    document ── its files are here, its patches were checked here ──> people ── model ── rows ──> compared with the past

The keys are the primary's. A row may only name what comes with it or is in the same model, so nothing of another model
can be touched. What a primary never changes, such as the digest of a revision, the files of a release or the weights of
a composition, has to be what it was: otherwise its past is another one, and a person has to look at it.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, func, null, select
from sqlalchemy.orm import Session

from registry.db.tables import (
    BaseFile,
    BaseTensor,
    Blob,
    Build,
    Channel,
    Comment,
    CommentEdit,
    Composition,
    CompositionFile,
    Evaluation,
    MirroredRow,
    Model,
    ModelTrigram,
    Patch,
    PatchRevision,
    Release,
    ReleaseFile,
    Table,
    now,
)
from registry.documents import commits
from registry.errors import DigestMismatch, HistoryChanged, InvalidRequest
from registry.files.folders import CONFIG
from registry.services.blobs import texts
from registry.services.catalog import models, revisions, search, tags
from registry.services.composing import compositions
from registry.services.curation import moderating
from registry.services.mirroring import files, people, recipes
from registry.services.mirroring.carried import CHANGING_SEALED, SEALED, TABLES, Carried, Part, queries
from registry.services.mirroring.documents import Document
from registry.storage.store import Store

OURS: Mapping[type[Table], Mapping[str, bool]] = {Composition: {"held": False}, Build: {"told": True}}  # of new rows


@dataclass(frozen=True)
class Contents:
    """What was found out here: of the base, if it is new, and of revisions that are new, as the tasks return it."""

    base: dict[str, Any] | None = None
    revisions: Mapping[uuid.UUID, dict[str, Any]] = field(default_factory=dict)


def changed(what: str) -> HistoryChanged:
    """Return the error for a past that is another one."""
    return HistoryChanged(
        f"The primary says something else of the past than before: {what}. Nothing was taken over; ask its operator."
    )


def apply(session: Session, store: Store, document: Document, contents: Contents) -> Model:
    """Take over a part of a model; the model is shown once `complete` is called for it.

    Args:
        session: A writing transaction.
        store: Has the files.
        document: The part.
        contents: What was found out here of its files.

    Raises:
        HistoryChanged: Something is not what it was.
        DigestMismatch: Something does not have the digest that it should have.
        WrongState: A name belongs to somebody of this registry.
        InvalidRequest: A row names what it may not.
    """
    known = {person.id for person in document.people}
    for person in document.people:
        people.take_person(session, person)
    people.take_space(session, document.space)
    for table, rows in document.rows.items():
        for name in TABLES[table].people:
            if any(row[name] is not None and row[name] not in known for row in rows):
                raise InvalidRequest(f"A row of {TABLES[table].name} names a user who did not come with it.")
    files.check_places(session, document)
    files.charge(session, document)
    files.refer(session, document)
    model = take_model(session, document)
    if document.recipe is not None:
        compositions.save(session, document.recipe)
    digest = document.recipe.digest if document.recipe else None
    here = set(session.scalars(select(Blob.sha256).where(Blob.sha256.in_(document.blobs))))
    carried = list(queries(model, document.part, digest))[1:]
    wanted = {one.table: files.fit(session, model, one, document, here) for one, _ in carried}
    keep_moderated(session, wanted)
    existing = {one.table: {key_of(one, row): row for row in session.scalars(query).all()} for one, query in carried}
    require_base(model, document, existing.get(BaseFile, {}))
    keep_commits(existing.get(PatchRevision, {}), wanted)
    if existing.get(Release) or document.of(Release):
        keep_moving(session, existing, document)
    for one, _ in reversed(carried):
        drop(session, one, existing[one.table], document.of(one.table))
    for one, _ in carried:
        for values in wanted[one.table]:
            merge(session, model, one, existing[one.table].get(key_in(one, values)), values)
        session.flush()
    for one, query in carried:  # now by what the rows themselves say
        found = {key_of(one, row) for row in session.scalars(query)}
        if any(key_in(one, values) not in found for values in wanted[one.table]):
            raise InvalidRequest(f"A row of {one.name} belongs to something else than {document.part}.")
    if contents.base is not None:
        take_base(session, store, model, contents.base)
    take_revisions(session, model, document, contents, here)
    if document.of(Composition) or document.of(Release):
        recipes.check_recipe(session, model, document)
    return model


def complete(session: Session, store: Store, model: Model, visibility: str) -> None:
    """Show a model of which all parts are here, to whom the primary shows it."""
    row = session.get_one(MirroredRow, ("model", model.id))
    row.complete, model.visibility = True, visibility
    row.completed_at = row.completed_at or now()
    base = {file.path: file.sha256 for file in models.base_files(session, model)}
    config = texts.read_config(store, base[CONFIG]) if CONFIG in base else {}
    tags.rewrite(session, model, config.get("model_type"))
    session.flush()


# Rows ------------------------------------------------------------------------------------------------------------


def key_of(one: Carried, row: Table) -> tuple[Any, ...]:
    """Return the key of a row."""
    return tuple(getattr(row, name) for name in one.keys)


def key_in(one: Carried, values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the key of a row that is to be."""
    return tuple(values[name] for name in one.keys)


def keep_moving(
    session: Session, existing: Mapping[type[Table], dict[tuple[Any, ...], Any]], document: Document
) -> None:
    """Leave alone releases that are cut again from another recipe: their rows come, or were, with that one's part."""
    named = {row["id"] for row in document.of(Release)}
    gone = {row.id for row in existing[Release].values() if row.state not in SEALED} - named
    for table in (Release, ReleaseFile, Evaluation):
        rows = existing[table]
        for key in [key for key, row in rows.items() if (row.id if table is Release else row.release_id) in gone]:
            del rows[key]
    came = select(Release.id).where(Release.id.in_(named), Release.state.not_in(SEALED))
    for row in session.scalars(select(ReleaseFile).where(ReleaseFile.release_id.in_(came))).all():
        existing[ReleaseFile].setdefault(key_of(TABLES[ReleaseFile], row), row)


def require_base(model: Model, document: Document, existing: Mapping[tuple[Any, ...], Any]) -> None:
    """Refuse files of a base that are not those of its commit, or that come once it was read here.

    Raises:
        DigestMismatch: The commit of the base is another one.
        HistoryChanged: There is another file than before.
    """
    base = {row["path"]: row["sha256"] for row in document.of(BaseFile)}
    if base and model.base_commit not in (None, commits.commit_id(base)):
        raise DigestMismatch(f"The files of the base of {model.full_name} are not those of its commit.")
    if existing and (more := base.keys() - {file.path for file in existing.values()}):
        raise changed(f"the base of {model.full_name} has another file, {min(more)}")


def keep_commits(existing: Mapping[tuple[Any, ...], Any], wanted: Mapping[type[Table], list[dict[str, Any]]]) -> None:
    """Have commits of patches alone as they are here; they follow from compositions (services/composing/alone.py)."""
    for values in wanted.get(PatchRevision, []):
        row = existing.get((values["id"],))
        values["commit"] = row.commit if row is not None else None


def keep_moderated(session: Session, wanted: dict[type[Table], list[dict[str, Any]]]) -> None:
    """Have what admins of this registry took down stay so, with all texts that a hidden comment had before."""
    for table in (Patch, Comment):
        if table in wanted:
            wanted[table] = moderating.overrule(session, table, wanted[table])
    hidden = moderating.kept_of(session, Comment, {row["comment_id"] for row in wanted.get(CommentEdit, [])})
    wanted[CommentEdit] = [row for row in wanted.get(CommentEdit, []) if row["comment_id"] not in hidden]


def drop(session: Session, one: Carried, existing: dict[tuple[Any, ...], Any], told: list[dict[str, Any]]) -> None:
    """Delete rows that are gone at the primary, which are those that it does not tell of, whether they fit or not.

    Raises:
        HistoryChanged: Such a row is never deleted.
    """
    kept = {key_in(one, values) for values in told}
    for key in existing.keys() - kept:
        row = existing.pop(key)
        if one.table is Build:
            continue  # of a worker of this registry, or before the composition was deleted
        if not one.vanishing or (isinstance(row, ReleaseFile) and is_sealed(session, row)):
            raise changed(f"a row of {one.name} is gone ({', '.join(map(str, key))})")
        if isinstance(row, ReleaseFile | CompositionFile):
            session.execute(
                delete(one.table).where(*(getattr(one.table, name) == getattr(row, name) for name in one.keys))
            )
            session.expunge(row)
        else:
            session.delete(row)
            session.flush()


def is_sealed(session: Session, file: ReleaseFile) -> bool:
    """Say whether a file is of a release that was published."""
    return session.get_one(Release, file.release_id).state in SEALED


def merge(session: Session, model: Model, one: Carried, row: Any, values: Mapping[str, Any]) -> None:
    """Add a row, or change what may change of it.

    Raises:
        HistoryChanged: Something else differs.
        InvalidRequest: A row of something else has the key.
    """
    if row is None:
        row = session.get(one.table, key_in(one, values))
        if row is not None and getattr(row, "model_id", None) != model.id:  # a draft may get another recipe
            raise InvalidRequest(f"The key of a row of {one.name} is that of a row of something else.")
    if row is None:
        given = {name: value for name, value in values.items() if value is not None}  # or JSON would have null
        session.add(one.table(**given, **OURS.get(one.table, {})))
        return
    allowed = one.changing
    if isinstance(row, Release) and row.state in SEALED:
        allowed = CHANGING_SEALED
        if values["state"] not in SEALED or (row.signature not in (None, values["signature"])):
            raise changed(f"the release {row.version} was {row.state}, or had another signature")
    for name, value in values.items():
        before = getattr(row, name)
        if before == value:
            continue
        if name not in allowed:
            raise changed(f"{name} of a row of {one.name} was {str(before)[:80]} and is {str(value)[:80]}")
        setattr(row, name, null() if value is None else value)


def take_model(session: Session, document: Document) -> Model:
    """Add or change the row of the model; nobody sees one that is not complete yet.

    Raises:
        HistoryChanged: Its base is another one.
        InvalidRequest: It is a model of this registry.
        WrongState: A model of this registry has its name.
    """
    values = document.model
    if values["namespace_id"] != document.space.id or values["state"] != "ready":
        raise InvalidRequest("The model is in another namespace than its own, or has no base.")
    known, row = session.get(MirroredRow, ("model", values["id"])), session.get(Model, values["id"])
    if (known is None) != (row is None):
        raise InvalidRequest(f"The key of {values['name']} is that of a model of this registry.")
    if row is None or known is None:
        people.require_new(session, values["id"], values["name"])
        mine = Model.namespace_id == values["namespace_id"], Model.name == values["name"]
        if session.scalar(select(Model.id).where(*mine)) is not None:
            raise changed(f"{document.space.name}/{values['name']} is another model than before")
        given = {name: value for name, value in values.items() if value is not None}
        session.add(Model(**{**given, "visibility": "private"}))
        session.add(MirroredRow(id=values["id"], kind="model"))
        session.flush()
        row = session.get_one(Model, values["id"])
        session.refresh(row)
        search.write(session, row)
        return row
    before = row.name
    # One that is read once more stays as it is, which is private if the primary hid it; see `complete`.
    visibility = values["visibility"] if known.complete or values["visibility"] == "private" else row.visibility
    merge(session, row, TABLES[Model], row, {**values, "visibility": visibility})
    session.flush()
    if row.name != before:
        session.execute(delete(ModelTrigram).where(ModelTrigram.model_id == row.id))
        search.write(session, row)
    return row


def take_base(session: Session, store: Store, model: Model, contents: dict[str, Any]) -> None:
    """Record the tensors of a base that was read here.

    Raises:
        DigestMismatch: The base is another one than the primary says.
    """
    base = {file.path: file.sha256 for file in models.base_files(session, model)}
    if contents["weights_digest"] != model.base_digest or model.base_commit not in (None, commits.commit_id(base)):
        raise DigestMismatch(
            f"The base of {model.full_name} has the digest {contents['weights_digest']}, and the primary says "
            f"{model.base_digest}."
        )
    session.execute(delete(BaseTensor).where(BaseTensor.model_id == model.id))
    models.record_base(session, model, contents)
    session.flush()


def take_revisions(session: Session, model: Model, document: Document, contents: Contents, here: set[str]) -> None:
    """Give revisions their bytes, and record what was found in those that are new."""
    keys = [row["id"] for row in document.of(PatchRevision) if row["state"] == "checked"]
    query = select(PatchRevision).where(PatchRevision.id.in_(keys)).order_by(PatchRevision.number)
    for revision in session.scalars(query).all():
        if revision.blob_sha256 is None and revision.sha256 in here:
            revision.blob_sha256 = revision.sha256
        if revision.nnz is None and revision.id in contents.revisions:
            revisions.record_contents(session, model, revision, contents.revisions[revision.id])
    session.flush()


def count_published(session: Session, model: uuid.UUID) -> int:
    """Return how many published releases of a model are here."""
    query = select(func.count()).select_from(Release).where(Release.model_id == model, Release.state.in_(SEALED))
    return session.scalars(query).one()


def channels_of(session: Session, model: uuid.UUID) -> list[Part]:
    """Return the parts of the channels of a model that are here."""
    names = session.scalars(select(Channel.name).where(Channel.model_id == model).order_by(Channel.name))
    return [Part("channel", name) for name in names]


def unread(session: Session, document: Document) -> list[dict[str, Any]]:
    """Return the rows of checked revisions whose bytes can be had and were not looked into here."""
    rows = [row for row in document.of(PatchRevision) if row["state"] == "checked" and row["sha256"] in document.blobs]
    keys = [row["id"] for row in rows]
    query = select(PatchRevision.id).where(PatchRevision.id.in_(keys), PatchRevision.nnz.is_not(None))
    known = set(session.scalars(query))
    return [row for row in rows if row["id"] not in known]

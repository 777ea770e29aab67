"""Files of documents: where they may be, whose quota they count against, and which rows can be added by now.

The primary names digests, and knowing one grants nothing (services/blobs/blobs.py): a file that is here counts only if
the primary has sent its bytes once, or if everybody may read it.
"""

import uuid
from collections.abc import Collection
from typing import Any

from sqlalchemy import and_, select
from sqlalchemy.orm import Session

from registry.db.tables import (
    STORED,
    BaseFile,
    Blob,
    Channel,
    ChannelMove,
    Composition,
    CompositionFile,
    Evaluation,
    MirroredFile,
    MirroredRow,
    Model,
    Patch,
    PatchRevision,
    Release,
    ReleaseFile,
    RevisionFile,
)
from registry.errors import InvalidRequest, WrongState
from registry.files.folders import is_weights
from registry.services.blobs import blobs, quotas
from registry.services.mirroring.carried import SEALED, Carried
from registry.services.mirroring.documents import Document

FILES = (BaseFile, RevisionFile, CompositionFile, ReleaseFile)  # tables of files, each with a digest


def record_sent(session: Session, sha256: str) -> None:
    """Record that the primary has sent the bytes of a file."""
    if session.get(MirroredFile, sha256) is None:
        session.add(MirroredFile(sha256=sha256))
        session.flush()


def granted(session: Session, digests: Collection[str]) -> set[str]:
    """Return and lease those sound files that are here and that the primary has sent, or that everybody may read."""
    query = select(MirroredFile.sha256).join(Blob, Blob.sha256 == MirroredFile.sha256)
    sent = set(session.scalars(query.where(MirroredFile.sha256.in_(set(digests)), Blob.damaged_at.is_(None))))
    return {*blobs.lease(session, sent), *blobs.readable(session, None, digests)}


def damaged(session: Session) -> list[tuple[str, str, int]]:
    """Return damaged files that the primary has sent: the full name of a model that has it, digest and size."""
    mine = select(Model, Blob).join(MirroredRow, and_(MirroredRow.kind == "model", MirroredRow.id == Model.id))
    revised = mine.join(Patch, Patch.model_id == Model.id).join(PatchRevision, PatchRevision.patch_id == Patch.id)
    composed = mine.join(Composition, Composition.model_id == Model.id)
    queries = (
        mine.join(BaseFile, BaseFile.model_id == Model.id).where(BaseFile.sha256 == Blob.sha256),
        revised.where(PatchRevision.blob_sha256 == Blob.sha256),
        revised.join(RevisionFile, RevisionFile.revision_id == PatchRevision.id).where(
            RevisionFile.sha256 == Blob.sha256
        ),
        composed.join(CompositionFile, CompositionFile.composition_id == Composition.id).where(
            CompositionFile.sha256 == Blob.sha256
        ),
        mine.join(Release, Release.model_id == Model.id)
        .join(ReleaseFile, ReleaseFile.release_id == Release.id)
        .where(ReleaseFile.sha256 == Blob.sha256),
    )
    sent = Blob.damaged_at.is_not(None), Blob.state.in_(STORED), Blob.sha256.in_(select(MirroredFile.sha256))
    rows = {row.Blob.sha256: row for query in queries for row in session.execute(query.where(*sent))}
    return [(row.Model.full_name, sha256, row.Blob.size) for sha256, row in sorted(rows.items())]


def check_places(session: Session, document: Document) -> None:
    """Refuse files that are where they cannot be: weights follow from recipes, and only a base can be at the Hub.

    Raises:
        InvalidRequest: The primary would send weights of a composition, or has no such file, or names one that is here
            for somebody else.
    """
    key = document.model["id"]
    base = {row["sha256"] for row in document.of(BaseFile)}
    base |= set(session.scalars(select(BaseFile.sha256).where(BaseFile.model_id == key)))
    made = [row for table in (CompositionFile, ReleaseFile) for row in document.of(table) if is_weights(row["path"])]
    for row in made:
        if row["sha256"] not in base and document.blobs.get(row["sha256"], (0, "composed"))[1] != "composed":
            raise InvalidRequest(
                f"The primary would send {row['path']}, and weights of compositions are composed here."
            )
    composed = {row["sha256"] for row in made}
    elsewhere = {sha256: place for sha256, (_, place) in document.blobs.items() if place != "here"}
    hub = {row["sha256"] for row in document.of(BaseFile) if row["path"].endswith(".safetensors")}
    hub = hub if document.model["by_reference"] and document.model["source"] else set()
    for sha256, place in elsewhere.items():
        if sha256 not in (hub if place == "hub" else composed):
            raise InvalidRequest(f"The primary says that the file {sha256} is {place}, and it cannot be.")
    held = select(Blob.sha256).where(Blob.sha256.in_(elsewhere), Blob.state.in_(STORED))
    if others := set(session.scalars(held)) - granted(session, elsewhere) - files_of(session, key, elsewhere):
        raise InvalidRequest(f"The file {min(others)} is here for somebody else, and the primary did not send it.")


def files_of(session: Session, model: uuid.UUID, digests: Collection[str]) -> set[str]:
    """Return those files that a mirrored model has by now: composed here, or read from the Hub."""
    composed = select(CompositionFile.sha256).join(Composition, Composition.id == CompositionFile.composition_id)
    base = select(BaseFile.sha256).where(BaseFile.model_id == model, BaseFile.sha256.in_(digests))
    return {
        *session.scalars(composed.where(Composition.model_id == model, CompositionFile.sha256.in_(digests))),
        *session.scalars(base),
    }


def refer(session: Session, document: Document) -> None:
    """Add rows for files whose bytes are elsewhere, and keep those that are here.

    Raises:
        WrongState: A file that came just now is gone again.
    """
    wanted = sorted(sha256 for sha256, (_, place) in document.blobs.items() if place == "here")
    missing = set(wanted) - blobs.lease(session, wanted).keys()
    if missing:
        raise WrongState(f"The file {min(missing)} is not here any more; it is fetched again.")
    for sha256, (size, place) in sorted(document.blobs.items()):
        if place != "here":
            blobs.refer(session, sha256, size, "remote" if place == "hub" else "computed", told=True)


def charge(session: Session, document: Document) -> None:
    """Count the files for the namespaces that use them, before the rows are added."""
    stored = {sha256 for sha256, (_, place) in document.blobs.items() if place == "here"}
    base = {row["sha256"] for row in document.of(BaseFile)} & stored
    if base:
        quotas.charge(session, document.space.id, base)
    authors = {row["id"]: row["author_id"] for row in document.of(Patch)}
    spaces = {person.id: person.namespace for person in document.people}
    used: dict[uuid.UUID, set[str]] = {}
    owners: dict[Any, uuid.UUID | None] = {
        row["id"]: spaces.get(authors[row["patch_id"]]) if row["patch_id"] in authors else None
        for row in document.of(PatchRevision)
    }
    named = [(row["id"], row["sha256"]) for row in document.of(PatchRevision) if row["state"] == "checked"]
    named += [(row["revision_id"], row["sha256"]) for row in document.of(RevisionFile)]
    for revision, sha256 in named:
        if (space := owners.get(revision)) is not None:
            used.setdefault(space, set()).add(sha256)
    for space, digests in sorted(used.items(), key=lambda pair: str(pair[0])):
        quotas.charge(session, space, digests & stored)


def fit(session: Session, model: Model, one: Carried, document: Document, here: set[str]) -> list[dict[str, Any]]:
    """Return the rows of a table that can be added: what they name is here, or else comes with an event of its own."""
    rows = document.of(one.table)
    if one.table is Release:
        rows = [row for row in rows if row["id"] not in document.unsigned]
    if one.table in (ReleaseFile, Evaluation):
        rows = [row for row in rows if row["release_id"] not in document.unsigned]
    if one.table in FILES:
        rows = [row for row in rows if row["sha256"] in here]
    if one.table is ReleaseFile:
        named = {row["revision_id"] for row in rows} - {None}
        mine = select(PatchRevision.id).join(Patch, Patch.id == PatchRevision.patch_id)
        known = set(session.scalars(mine.where(Patch.model_id == model.id, PatchRevision.id.in_(named))))
        rows = [{**row, "revision_id": row["revision_id"] if row["revision_id"] in known else None} for row in rows]
    if one.table in (Channel, ChannelMove):
        rows = fit_channels(session, model, rows, moves=one.table is ChannelMove)
    return rows


def fit_channels(session: Session, model: Model, rows: list[dict[str, Any]], *, moves: bool) -> list[dict[str, Any]]:
    """Return channels, or their moves, that lead to releases that are published here.

    A channel that leads to another one stays where it is until that is here (worker/mirror/follower.py).
    """
    named = {row["release_id"] for row in rows} - {None}
    published = select(Release.id).where(Release.model_id == model.id, Release.state.in_(SEALED))
    known = {None, *session.scalars(published.where(Release.id.in_(named)))}
    if moves:
        return [row for row in rows if row["release_id"] in known]
    query = select(Channel.id, Channel.release_id).where(Channel.id.in_([row["id"] for row in rows]))
    before: dict[uuid.UUID, uuid.UUID | None] = dict(session.execute(query.where(Channel.model_id == model.id)).all())
    return [row if row["release_id"] in known else {**row, "release_id": before.get(row["id"])} for row in rows]

"""The rows that stand for bytes: registering, proof of possession, checking, clearing away.

A blob's row and its file come and go under the row's lock, in one transaction: the file is in place before the
commit that makes the row visible, and gone only in a transaction that has seen no reference. Knowing a digest
grants nothing: `readable` asks whether the user could download the bytes or has sent them.
"""

import uuid
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.models import BaseFile, Blob, CompositionFile, Model, PatchRevision, UploadSession
from registry.db.session import Database
from registry.errors import StorageFailed
from registry.store import Store, hash_file

MOST_COLLECTED = 100
OWNERS = (BaseFile.sha256, PatchRevision.blob_sha256, CompositionFile.sha256, UploadSession.sha256)


def register(session: Session, store: Store, staged: Path, sha256: str, size: int) -> None:
    """Make a staged file a blob; the caller vouches that its bytes hash to `sha256`.

    A staged file of another size is what is left when a process was killed after the bytes had been renamed into
    place; the blob is there then, and only its row is missing.

    Raises:
        StorageFull, StorageFailed: the disk failed; roll back.
    """
    lock(session, sha256, size)
    if staged.stat().st_size == size:
        store.adopt(staged, sha256)
    elif not store.exists(sha256):
        raise StorageFailed(f"The bytes of {sha256} are gone; send them again.")


def lock(session: Session, sha256: str, size: int) -> None:
    """Lock a blob's row, adding it when new; a twin that another transaction is adding is waited for."""
    while session.get(Blob, sha256, with_for_update=True) is None:
        with suppress(IntegrityError), session.begin_nested():
            session.add(Blob(sha256=sha256, size=size))


def readable(session: Session, user_id: uuid.UUID, digests: Collection[str]) -> dict[str, int]:
    """Return size by digest of those blobs that a user may use without sending bytes: published, or sent before."""
    sent = exists().where(
        UploadSession.sha256 == Blob.sha256, UploadSession.user_id == user_id, UploadSession.state == "done"
    )
    base = exists().where(BaseFile.sha256 == Blob.sha256, BaseFile.model_id == Model.id, Model.state == "ready")
    patch = exists().where(PatchRevision.blob_sha256 == Blob.sha256, PatchRevision.state == "checked")
    composed = exists().where(CompositionFile.sha256 == Blob.sha256)
    found = session.execute(
        select(Blob.sha256, Blob.size).where(Blob.sha256.in_(set(digests)), or_(sent, base, patch, composed))
    )
    return {blob.sha256: blob.size for blob in found}


def adopt_orphans(session: Session, store: Store) -> int:
    """Give a row to every blob file without one (its writer died before the commit); return how many.

    An orphan with a row is ordinary garbage, which `collect` clears away under the row's lock.
    """
    known = set(session.scalars(select(Blob.sha256)))
    orphans = [sha256 for sha256 in store.digests() if sha256 not in known]
    for sha256 in orphans:
        lock(session, sha256, store.path(sha256).stat().st_size)
    return len(orphans)


def collect(session: Session, store: Store, older_than: datetime) -> int:
    """Delete up to MOST_COLLECTED blobs that nothing refers to and that are older than a time; return how many.

    An upload session is a reference, so bytes stay as long as somebody may be about to use them.
    """
    unused = [~exists().where(owner == Blob.sha256) for owner in OWNERS]
    garbage = session.scalars(
        select(Blob)
        .where(Blob.created_at < older_than, *unused)
        .limit(MOST_COLLECTED)
        .with_for_update(skip_locked=True)
    ).all()
    for blob in garbage:
        session.delete(blob)
    session.flush()
    for blob in garbage:
        store.path(blob.sha256).unlink(missing_ok=True)
    return len(garbage)


def check(database: Database, store: Store) -> Iterator[str]:
    """Yield one sentence for every blob that is missing, damaged, of another size, or without a row.

    No transaction is held while hashing, so a registry may be checked while it works: what looks wrong is looked up
    again before it is reported.
    """

    def row(sha256: str) -> Blob | None:
        with database.read() as session:
            return session.get(Blob, sha256)

    with database.read() as session:
        sizes = {blob.sha256: blob.size for blob in session.execute(select(Blob.sha256, Blob.size))}
    for sha256, size in sorted(sizes.items()):
        wrong = flaw(store, sha256, size)
        if wrong and row(sha256):
            yield f"The blob {sha256} {wrong}."
    for sha256 in store.digests():
        if sha256 not in sizes and not row(sha256) and store.exists(sha256):
            yield f"The file {sha256} has no row; the next start of a worker clears it away."


def flaw(store: Store, sha256: str, size: int) -> str | None:
    """Say what is wrong with a blob's file, if anything."""
    path = store.path(sha256)
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, not {size}"
    return None if hash_file(path) == sha256 else "is damaged: its bytes hash to something else"

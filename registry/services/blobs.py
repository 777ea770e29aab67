"""The rows that stand for bytes: registering, proof of possession, checking, clearing away.

A blob's row and its file come and go under the row's lock, in one transaction: the file is in place before the
commit that makes the row visible, and gone only in a transaction that has seen no reference. Knowing a digest
grants nothing: `readable` asks whether the user could download the bytes or has sent them.
"""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import ColumnElement, exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.models import BaseFile, Blob, CompositionFile, PatchRevision, UploadSession
from registry.store import Store, hash_file

MOST_COLLECTED = 100
OWNERS = (BaseFile.sha256, PatchRevision.blob_sha256, CompositionFile.sha256, UploadSession.sha256)


def register(session: Session, store: Store, staged: Path, sha256: str) -> None:
    """Make a staged file a blob; the caller vouches that its bytes hash to `sha256`.

    Raises:
        StorageFull, StorageFailed: the disk failed; roll back.
    """
    lock(session, sha256, staged.stat().st_size)
    store.adopt(staged, sha256)


def lock(session: Session, sha256: str, size: int) -> None:
    """Lock a blob's row, adding it when new; a twin that another transaction is adding is waited for."""
    while session.get(Blob, sha256, with_for_update=True) is None:
        with suppress(IntegrityError), session.begin_nested():
            session.add(Blob(sha256=sha256, size=size))


def readable(session: Session, user_id: uuid.UUID, sha256: str) -> bool:
    """Say whether a user may use a blob without sending its bytes: published, or sent by them before."""
    sent = (UploadSession.sha256 == sha256) & (UploadSession.user_id == user_id) & (UploadSession.state == "done")
    published: list[ColumnElement[bool]] = [
        exists().where(BaseFile.sha256 == sha256),
        exists().where(PatchRevision.blob_sha256 == sha256, PatchRevision.state == "checked"),
        exists().where(CompositionFile.sha256 == sha256),
    ]
    return bool(session.scalar(select(or_(exists().where(sent), *published)))) and (
        session.get(Blob, sha256) is not None
    )


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


def check(session: Session, store: Store) -> Iterator[str]:
    """Yield one sentence for every blob that is missing, damaged, of another size, or without a row."""
    rows = {blob.sha256: blob.size for blob in session.scalars(select(Blob))}
    for sha256, size in sorted(rows.items()):
        path = store.path(sha256)
        if not path.is_file():
            yield f"The blob {sha256} is missing."
        elif path.stat().st_size != size:
            yield f"The blob {sha256} has {path.stat().st_size} bytes, not {size}."
        elif hash_file(path) != sha256:
            yield f"The blob {sha256} is damaged: its bytes hash to something else."
    for sha256 in store.digests():
        if sha256 not in rows:
            yield f"The file {sha256} has no row; the next start of a worker clears it away."

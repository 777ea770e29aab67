"""Damage: blobs whose files are missing or hold other bytes. They are marked, not served or reused, and repaired.

    sound ── its size is wrong when it is asked for, or its hash when it is read ──> damaged (`damaged_at` is set)
      ^── the same bytes are uploaded or composed again, come from the bucket, or are put back by the operator ──┘

A file is hashed without a transaction. Its mark is set or removed under the lock of its row, if the file is still the
one that was hashed.
"""

import errno
from collections.abc import Collection, Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import ELSEWHERE, Blob, now
from registry.files.progress import Progress
from registry.services.blobs.blobs import get_locked
from registry.services.blobs.places import is_place
from registry.storage.store import Store, damaged

DIGESTS_AT_ONCE = 1000
UNREADABLE = (errno.EIO, errno.EBADMSG, errno.EUCLEAN)  # of a disk that lost what it held


def flaw(store: Store, sha256: str, size: int, progress: Progress | None = None) -> str | None:
    """Say what is wrong with a blob's file, if anything; its bytes are hashed if the size is right."""
    stored = store.size(sha256)
    if stored is None:
        return "is missing"
    if stored != size:
        return f"has {stored} bytes, not {size}"
    try:
        digest = store.hash(sha256, progress)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        return f"cannot be read: {error.strerror}"
    return None if digest == sha256 else "is damaged: its bytes hash to something else"


def examine(database: Database, store: Store, sha256: str, progress: Progress | None = None) -> str | None:
    """Hash a blob's file, mark the blob as damaged or as sound, and say what is wrong with it, if anything.

    Nothing is wrong with a blob that has no row (any more), or whose bytes are elsewhere.

    Raises:
        StorageFailed: The bucket did not answer, or is not the one of the registry.
    """
    with database.read() as session:
        blob = session.get(Blob, sha256)
    while blob is not None and not (blob.state in ELSEWHERE and not store.exists(sha256)):
        hashed = store.identity(sha256)
        problem = flaw(store, sha256, blob.size, progress)
        if problem:
            store.require_there()
        with database.write() as session:
            blob = get_locked(session, sha256)
            if not is_place(session, store):
                return None  # the blobs were moved, and this process does not know where they are
            if blob is not None and store.identity(sha256) == hashed:
                blob.checked_at = now()
                blob.damaged_at = (blob.damaged_at or now()) if problem else None
                return problem
    return None


def note(database: Database, store: Store, sha256: str) -> None:
    """Look at a blob that somebody found damaged, unless it is marked already: reading a large file takes long."""
    store.distrust(sha256)
    with database.read() as session:
        blob = session.get(Blob, sha256)
    if blob is not None and blob.damaged_at is None:
        examine(database, store, sha256)


def require_sound(database: Database, store: Store, digests: Collection[str]) -> None:
    """Refuse, for a job, blobs whose files have the wrong size, or that are marked as damaged and still are.

    Raises:
        BlobDamaged: A blob is damaged.
    """
    named = sorted(set(digests))
    for start in range(0, len(named), DIGESTS_AT_ONCE):
        with database.read() as session:
            rows = session.scalars(select(Blob).where(Blob.sha256.in_(named[start : start + DIGESTS_AT_ONCE]))).all()
        for blob in rows:
            elsewhere = blob.state in ELSEWHERE and not store.exists(blob.sha256)
            right = elsewhere or store.holds(blob.sha256, blob.size)
            if not right or (blob.damaged_at is not None and examine(database, store, blob.sha256)):
                raise damaged(blob.sha256)


def refuse_marked(session: Session, digests: Collection[str]) -> None:
    """Refuse, for a reader, blobs of which one is marked as damaged.

    Raises:
        BlobDamaged: One is.
    """
    marked = select(Blob.sha256).where(Blob.sha256.in_(set(digests)), Blob.damaged_at.is_not(None))
    if (sha256 := session.scalar(marked.limit(1))) is not None:
        raise damaged(sha256)


def count(session: Session) -> int:
    """Return how many blobs are damaged."""
    return session.scalars(select(func.count()).select_from(Blob).where(Blob.damaged_at.is_not(None))).one()


def check(database: Database, store: Store) -> Iterator[str]:
    """Yield one sentence for every blob that is missing, damaged, of another size, or without a row; mark the damaged.

    Blobs whose bytes are elsewhere do not count as missing. No transaction is open while hashing, so a registry can be
    checked while it runs.
    """
    with database.read() as session:
        rows = session.execute(select(Blob.sha256, Blob.size, Blob.damaged_at, Blob.state).order_by(Blob.sha256)).all()
    for sha256, size, marked_at, state in rows:
        if state in ELSEWHERE and not store.exists(sha256):
            continue
        if marked_at is None and not flaw(store, sha256, size):
            continue
        if problem := examine(database, store, sha256):
            yield f"The blob {sha256} {problem}."
    known = {row.sha256 for row in rows}
    for sha256 in store.digests():
        if sha256 not in known and not has_row(database, sha256) and store.exists(sha256):
            yield f"The file {sha256} has no row; the next start of a worker, or `crumb-server gc`, gives it one."


def has_row(database: Database, sha256: str) -> bool:
    """Say whether a blob has a row, once no other transaction holds its lock."""
    with database.write() as session:
        return get_locked(session, sha256) is not None

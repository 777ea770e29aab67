"""Copies of blobs in a bucket: which go there, which leave it, and what is true in between.

    on disk, bucketed_at none ── copied, no transaction open ── still live? ──> bucketed_at set
        ^                                                                             │ doomed, and due to go
        └── wanted again: copied again ── object deleted <── bucketed_at none, committed
                                               └── row and file may go (services/garbage.py)

Whose `bucketed_at` is set has an object. Two rules keep that true: objects are put and deleted, and `bucketed_at` is
set, by none but the holder of one lock, a file in the data folder that the system lets go of when its holder dies; and
`bucketed_at` is unset and committed before the object is deleted. Nothing is asked of the bucket in a transaction. A
kill at any point leaves, at worst, an object that no row claims: it is written over when the blob is copied again, and
`reconcile` deletes it when the blob is gone.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, or_, select

from registry.db.session import Database
from registry.db.tables import Blob, UploadSession, now
from registry.errors import BreadcrumbError, StorageFailed
from registry.services.blobs import blobs
from registry.storage.bucket import Bucket, StoredObject
from registry.storage.store import Store

LOCK = "bucket.lock"
LOOK = 1000  # blobs looked up at a time
FAILURES = 3  # of the bucket, in a row, after which it is left alone for now
# What is only announced is nobody's to download yet.
SERVED = tuple(owner for owner in blobs.OWNERS if owner is not UploadSession.sha256)


@dataclass(frozen=True)
class Outcome:
    """What came of one blob: `error` says why it was not copied."""

    sha256: str
    size: int
    error: BreadcrumbError | None = None


@contextmanager
def holding(store: Store, *, wait: bool = False) -> Iterator[bool]:
    """Hold the lock of whoever changes the bucket; say whether we have it.

    Args:
        store: Whose folder the lock is in.
        wait: Whether to wait until it is free, which may take as long as a large file takes to copy.
    """
    with store.writing("the lock of the bucket"):
        handle = os.open(store.root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        yield held
    finally:
        os.close(handle)


def run(
    database: Database, store: Store, bucket: Bucket, least: int, stopping: Callable[[], bool] = lambda: False
) -> Iterator[Outcome]:
    """Copy what is not in the bucket yet, one blob at a time, until all is there or the bucket fails.

    Yields what came of each. It ends at once when another process is copying, which goes on until all is there.

    Args:
        database: Which blobs there are.
        store: Where they are.
        bucket: Where they go.
        least: The smallest that goes there, in bytes.
        stopping: Asked now and then, in the middle of a file too; once it says so, no more is copied.
    """
    tried: set[str] = set()
    failures = 0
    while found := [(sha256, size) for sha256, size in waiting(database, least) if sha256 not in tried]:
        for sha256, size in found:
            if stopping() or failures == FAILURES:
                return
            tried.add(sha256)
            with holding(store) as held:
                if not held:
                    return
                outcome = copy(database, store, bucket, sha256, size, stopping)
            if outcome is not None:
                yield outcome
                failures = failures + 1 if isinstance(outcome.error, StorageFailed) else 0


def waiting(database: Database, least: int) -> list[tuple[str, int]]:
    """Return digest and size of up to LOOK blobs that somebody may download and the bucket does not have, by age."""
    with database.read() as session:
        found = session.execute(
            select(Blob.sha256, Blob.size)
            .where(Blob.bucketed_at.is_(None), Blob.state == "live", Blob.size >= least)
            .where(or_(*(exists().where(owner == Blob.sha256) for owner in SERVED)))
            .order_by(Blob.created_at, Blob.sha256)
            .limit(LOOK)
        )
        return [(sha256, size) for sha256, size in found]


def copy(
    database: Database, store: Store, bucket: Bucket, sha256: str, size: int, stopping: Callable[[], bool]
) -> Outcome | None:
    """Copy a blob and write that down; the caller holds the lock. None when somebody else has done so."""
    with database.read() as session:
        blob = session.get(Blob, sha256)
        if blob is None or blob.state != "live" or blob.bucketed_at is not None:
            return None
    try:
        bucket.put(sha256, store.path(sha256), size, stopping)
        if not claim(database, sha256):
            bucket.delete(sha256)
            return None
    except BreadcrumbError as error:
        return Outcome(sha256, size, error)
    return Outcome(sha256, size)


def claim(database: Database, sha256: str) -> bool:
    """Write down that the bucket has a blob, if it still lives; say whether it does."""
    with database.write() as session:
        blob = blobs.get_locked(session, sha256)
        if blob is None or blob.state != "live":
            return False
        blob.bucketed_at = now()
        return True


def withdraw(database: Database, store: Store, bucket: Bucket, before: datetime, *, wait: bool = False) -> None:
    """Take out of the bucket what has been doomed since before a time; later when another process is copying.

    Raises:
        StorageFailed: the bucket does not delete.
    """
    with holding(store, wait=wait) as held:
        while held and (sha256 := disclaim_next(database, before)):
            bucket.delete(sha256)


def disclaim_next(database: Database, before: datetime) -> str | None:
    """Write down, of one doomed blob, that the bucket does not have it; return its digest, None when there is none."""
    with database.write() as session:
        blob = session.scalars(
            select(Blob)
            .where(Blob.bucketed_at.is_not(None), Blob.state == "doomed", Blob.doomed_at <= before)
            .order_by(Blob.sha256)
            .limit(1)
            .with_for_update(skip_locked=True)
        ).one_or_none()
        if blob is None:
            return None
        blob.bucketed_at = None
        return blob.sha256


def reconcile(
    database: Database, store: Store, bucket: Bucket, before: datetime, *, dry: bool = False
) -> tuple[list[StoredObject], list[str]]:
    """List the bucket, delete what has no row, and let go of what it should have and has not: it is copied again.

    Args:
        database: Which blobs there are.
        store: Whose folder the lock is in; it is waited for.
        bucket: What is listed.
        before: Objects put after this time are left alone.
        dry: Whether to change nothing.

    Returns:
        The objects without a row, and the digests of the blobs that are to be copied again.

    Raises:
        StorageFailed: the bucket does not list or delete.
    """
    with holding(store, wait=True):
        with database.read() as session:
            known = set(session.scalars(select(Blob.sha256)))
            claimed = select(Blob.sha256, Blob.size).where(Blob.bucketed_at.is_not(None))
            lost = {blob.sha256: blob.size for blob in session.execute(claimed)}
        strays = []
        for found in bucket.list():
            if lost.get(found.sha256) == found.size:
                del lost[found.sha256]
            elif found.sha256 not in known and found.put_at <= before:
                strays.append(found)
        if not dry:
            for found in strays:  # a row that has come since claims no object: that takes the lock
                bucket.delete(found.sha256)
            for sha256 in sorted(lost):
                with database.write() as session:
                    blob = blobs.get_locked(session, sha256)
                    if blob is not None:
                        blob.bucketed_at = None
    return strays, sorted(lost)


def check(database: Database, bucket: Bucket) -> Iterator[str]:
    """Yield one sentence for every blob that the bucket should have and has not whole, or why it does not say."""
    with database.read() as session:
        claimed = select(Blob.sha256, Blob.size).where(Blob.bucketed_at.is_not(None)).order_by(Blob.sha256)
        sizes = [(sha256, size) for sha256, size in session.execute(claimed)]
    for sha256, size in sizes:
        try:
            found = bucket.size(sha256)
        except StorageFailed as error:
            yield str(error)
            return
        if found == size:
            continue
        with database.read() as session:  # once more: it may have been withdrawn meanwhile
            blob = session.get(Blob, sha256)
        if blob is not None and blob.bucketed_at is not None:
            has = "does not have" if found is None else f"has {found} of {size} bytes of"
            yield f"The bucket {has} blob {sha256}; `crumb-server gc` lets a worker copy it again."

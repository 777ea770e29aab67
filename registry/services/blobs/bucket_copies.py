"""Copies of blobs in a bucket: which are copied, which are deleted, and what holds in between.

    on disk, bucketed_at none ── copied, no transaction open ── still live? ──> bucketed_at set
        ^                                                                             │ doomed, and due to go
        └── wanted again: copied again ── object deleted <── bucketed_at none, committed
                                               └── row and file may go (services/garbage.py)

A blob whose `bucketed_at` is set has an object. Two rules keep that true. Only the holder of one lock, a file in the
data folder that the system releases when its holder dies, puts or deletes objects and sets `bucketed_at`. And
`bucketed_at` is unset and committed before the object is deleted. The bucket is never called within a transaction. A
kill at any point leaves, at worst, an object that no row claims: it is claimed when the blob is to be copied again, and
`reconcile` deletes it when the blob is gone.

What a database and a bucket say of one another may still differ, if one of them was put back from an older copy. A
restored database claims nothing; what the bucket has is claimed as it stands. A worker lists the bucket when it starts,
and what is missing there is sent from the disk until it has been copied again.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import Blob, UploadSession, now
from registry.errors import BreadcrumbError, DigestMismatch, NotFound, StorageFailed
from registry.services.blobs import blobs, damage, places
from registry.storage.bucket import Bucket, StoredObject
from registry.storage.store import Store

LOCK = "bucket.lock"
BLOBS_AT_ONCE = 1000  # that one query returns
MOST_FAILURES = 3  # of the bucket in a row, after which copying stops for now
# Bytes that are only announced cannot be downloaded yet.
SERVED = tuple(owner for owner in blobs.OWNERS if owner is not UploadSession.sha256)


@dataclass(frozen=True)
class Outcome:
    """The outcome for one blob: `error` says why it was not copied."""

    sha256: str
    size: int
    error: BreadcrumbError | None = None


def run(
    database: Database, store: Store, bucket: Bucket, least: int, stopping: Callable[[], bool] = lambda: False
) -> Iterator[Outcome]:
    """Copy what is not in the bucket yet, one blob at a time, until all is there or the bucket fails.

    Yields the outcome of each. Ends at once if another process is copying: that one continues until all is there.

    Args:
        database: Has the rows of the blobs.
        store: Has their bytes.
        bucket: Where they are copied to.
        least: The size of the smallest blob that is copied, in bytes.
        stopping: Called now and then, in the middle of a file too; copying stops once it returns True.
    """
    tried: set[str] = set()
    failures = 0
    while batch := [(sha256, size) for sha256, size in waiting(database, least) if sha256 not in tried]:
        for sha256, size in batch:
            if stopping() or failures == MOST_FAILURES:
                return
            tried.add(sha256)
            with store.holding(LOCK) as locked:
                if not locked or is_store(database):
                    return
                outcome = copy(database, store, bucket, sha256, size, stopping)
            if outcome is not None:
                yield outcome
                failures = failures + 1 if isinstance(outcome.error, StorageFailed) else 0


def is_store(database: Database) -> bool:
    """Say whether the blobs were moved to the bucket, which has no copies then: this process is to be restarted."""
    with database.read() as session:
        return places.kept_in(session) == "bucket"


def waiting(database: Database, least: int) -> list[tuple[str, int]]:
    """Return digest and size of up to BLOBS_AT_ONCE blobs that can be downloaded and are not in the bucket, by age."""
    with database.read() as session:
        rows = session.execute(
            select(Blob.sha256, Blob.size)
            .where(*lacking(least))
            .order_by(Blob.created_at, Blob.sha256)
            .limit(BLOBS_AT_ONCE)
        )
        return [(sha256, size) for sha256, size in rows]


def lacking(least: int) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for blobs that can be downloaded and are not in the bucket."""
    served = or_(*(exists().where(owner == Blob.sha256) for owner in SERVED))
    return Blob.bucketed_at.is_(None), Blob.damaged_at.is_(None), Blob.state == "live", Blob.size >= least, served


def copy(
    database: Database, store: Store, bucket: Bucket, sha256: str, size: int, stopping: Callable[[], bool]
) -> Outcome | None:
    """Copy a blob, unless the bucket has it, and record that; the caller holds the lock.

    Returns:
        The outcome; None if another process has recorded the copy, or the blob is no longer live.
    """
    with database.read() as session:
        blob = session.get(Blob, sha256)
        if blob is None or blob.state != "live" or blob.bucketed_at is not None:
            return None
    try:
        if not has(bucket, sha256, size):
            bucket.put(sha256, store.path(sha256), size, stopping)
        if not claim(database, sha256):
            bucket.delete(sha256)
            return None
    except BreadcrumbError as error:
        if isinstance(error, DigestMismatch | NotFound):
            damage.examine(database, store, sha256)
        return Outcome(sha256, size, error)
    return Outcome(sha256, size)


def has(bucket: Bucket, sha256: str, size: int) -> bool:
    """Say whether the bucket has a blob. A key may not be allowed to ask; then no, and putting says what is wrong."""
    with suppress(StorageFailed):
        return bucket.size(sha256) == size
    return False


def claim(database: Database, sha256: str) -> bool:
    """Record that the bucket has a blob, if the blob is still live; return whether it is."""
    with database.write() as session:
        blob = blobs.get_locked(session, sha256)
        if blob is None or blob.state != "live":
            return False
        blob.bucketed_at = now()
        return True


def withdraw(database: Database, store: Store, bucket: Bucket, before: datetime, *, wait: bool = False) -> None:
    """Delete from the bucket what was doomed before a time, or is computed since.

    Does nothing while another process copies, unless `wait`.

    Raises:
        StorageFailed: The bucket did not delete an object, or is another registry's.
    """
    with store.holding(LOCK, wait=wait) as locked:
        bucket.require_owner()
        while locked and not is_store(database) and (sha256 := disclaim_next(database, before)):
            bucket.delete(sha256)


def disclaim_next(database: Database, before: datetime) -> str | None:
    """Record of one blob that may go that the bucket does not have it; return its digest, or None if none is left."""
    with database.write() as session:
        blob = session.scalars(
            select(Blob)
            .where(Blob.bucketed_at.is_not(None), Blob.state.in_(("doomed", "computed")), Blob.doomed_at <= before)
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
    """List the bucket, delete objects without a row, and mark blobs that it has lost, so that they are copied again.

    Args:
        database: Has the rows of the blobs.
        store: Whose folder the lock is in; this waits for it.
        bucket: The bucket to list.
        before: Objects put after this time are left alone.
        dry: Whether to change nothing.

    Returns:
        The objects without a row, and the digests of the blobs that are to be copied again.

    Raises:
        StorageFailed: The bucket did not list or delete its objects, or is another registry's.
    """
    with store.holding(LOCK, wait=True):
        certain = bucket.require_owner()
        if is_store(database):
            return [], []
        with database.read() as session:
            known = set(session.scalars(select(Blob.sha256)))
            lost = claimed(session)
        strays = []
        for item in bucket.list():
            if lost.get(item.sha256) == item.size:
                del lost[item.sha256]
            elif item.sha256 not in known and item.put_at <= before:
                strays.append(item)
            certain = certain or item.sha256 in known
        if strays and not certain:
            raise bucket.foreign()
        if not dry:
            for item in strays:  # a row added since claims no object: that needs the lock
                bucket.delete(item.sha256)
            disclaim(database, lost)
    return strays, sorted(lost)


def find_lost(
    database: Database, store: Store, bucket: Bucket, stopping: Callable[[], bool] = lambda: False
) -> list[str]:
    """List the bucket, and mark blobs that it has lost, so that they are copied again; return their digests.

    Does nothing while another process copies: that one has looked before.

    Raises:
        StorageFailed: The bucket did not list its objects.
    """
    with store.holding(LOCK) as locked:
        if not locked or is_store(database):
            return []
        with database.read() as session:
            lost = claimed(session)
        for item in bucket.list() if lost else ():
            if stopping():
                return []
            if lost.get(item.sha256) == item.size:
                del lost[item.sha256]
        disclaim(database, lost)
    return sorted(lost)


def claimed(session: Session) -> dict[str, int]:
    """Return the sizes of the blobs that the bucket should have, by digest."""
    rows = session.execute(select(Blob.sha256, Blob.size).where(Blob.bucketed_at.is_not(None)).order_by(Blob.sha256))
    return {row.sha256: row.size for row in rows}


def disclaim(database: Database, digests: Iterable[str]) -> None:
    """Record of blobs that the bucket does not have them; the caller holds the lock."""
    for sha256 in sorted(digests):
        with database.write() as session:
            blob = blobs.get_locked(session, sha256)
            if blob is not None:
                blob.bucketed_at = None


def disclaim_all(session: Session) -> None:
    """Record that the bucket has nothing, for a database that was put back and does not know what it holds by now."""
    session.execute(update(Blob).where(Blob.bucketed_at.is_not(None)).values(bucketed_at=None))


def check(database: Database, bucket: Bucket) -> Iterator[str]:
    """Yield one sentence for every blob that the bucket has lost or holds in part, or why it cannot be asked."""
    with database.read() as session:
        sizes = claimed(session)
    try:
        bucket.require_owner()
    except StorageFailed as error:
        yield str(error)
        return
    for sha256, size in sizes.items():
        try:
            stored = bucket.size(sha256)
        except StorageFailed as error:
            yield str(error)
            return
        if stored == size:
            continue
        with database.read() as session:  # again: it may have been withdrawn meanwhile
            blob = session.get(Blob, sha256)
        if blob is not None and blob.bucketed_at is not None:
            has = "does not have" if stored is None else f"has {stored} of {size} bytes of"
            yield f"The bucket {has} blob {sha256}; `crumb-server gc` lets a worker copy it again."

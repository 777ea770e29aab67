"""Scrubbing: every blob is read again now and then, and damaged ones are marked, and repaired from the bucket.

Of all workers that share a data folder, one scrubs at a time: it holds a lock, a file that the system releases when its
holder dies. `checked_at` says where the next one continues. Blobs are due after half the period, and read at twice the
speed that the period needs, so all are read within it.
"""

import os
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import and_, func, or_, select, update

from registry.db.session import Database
from registry.db.tables import STORED, Blob, now
from registry.errors import BreadcrumbError, StorageFailed, WrongState
from registry.services.blobs import blobs, damage
from registry.storage.bucket import Bucket
from registry.storage.store import Store

LOCK = "scrub.lock"
LEAST_RATE = 16 * 2**20  # bytes a second
LEAST_PAUSE = 0.02  # seconds for each blob, however small
MOST_FAILURES = 3  # of the bucket in a row, after which the scrub ends for now
RETRY = timedelta(hours=1)  # after which a damaged blob is looked at again: the operator may have put its file back


@dataclass(frozen=True)
class Finding:
    """A blob that was read again: what is wrong with it, if anything, and whether the bucket repaired it."""

    sha256: str
    problem: str | None
    repaired: bool = False


def run(
    database: Database, store: Store, period: timedelta, stopping: threading.Event, bucket: Bucket | None = None
) -> Iterator[Finding]:
    """Read the blobs that are due, one at a time and slowly; yield those that were or are damaged.

    Ends at once if another process is scrubbing.

    Args:
        database: Has the rows of the blobs.
        store: Has their bytes.
        period: How long it may take until every blob was read again.
        stopping: Ends the run when it is set, in the middle of a file too.
        bucket: Has copies from which damaged blobs are repaired.

    Raises:
        StorageFailed: The bucket failed several times in a row; one object that it does not send is left for later.
    """
    begun, failed, in_a_row = now(), list[str](), 0
    with store.holding(LOCK) as locked:
        if locked:
            distrust(database, begun, period)
        rate = max(LEAST_RATE, 2 * total(database) / period.total_seconds())
        while locked and not stopping.is_set() and (due := next_due(database, begun, period, failed)):
            sha256, marked = due
            pace = Pace(rate, stopping)
            forget_cached(store, sha256)
            try:
                problem = damage.examine(database, store, sha256, pace)
            except WrongState:
                return
            except StorageFailed:
                failed.append(sha256)
                in_a_row += 1
                if in_a_row == MOST_FAILURES:
                    raise
                continue
            in_a_row = 0
            repaired = problem is not None and bucket is not None and repair(database, store, bucket, sha256)
            if problem or marked:
                yield Finding(sha256, problem, repaired or problem is None)
            pace(0, 0)


class Pace:
    """A progress callback that waits whenever it is ahead of a rate.

    Args:
        rate: Bytes a second.
        stopping: Ends the reading, by an error, when it is set.
    """

    def __init__(self, rate: float, stopping: threading.Event) -> None:
        self.rate, self.stopping, self.begun = rate, stopping, time.monotonic()

    def __call__(self, done: int, _whole: int) -> None:
        """Wait until so many bytes may have been read."""
        ahead = self.begun + max(LEAST_PAUSE, done / self.rate) - time.monotonic()
        if ahead > 0 and self.stopping.wait(ahead):
            raise WrongState("The scrub was stopped; it continues later.")


def total(database: Database) -> int:
    """Return the bytes of all blobs on disk."""
    with database.read() as session:
        stored = select(func.coalesce(func.sum(Blob.size), 0)).where(Blob.state.in_(STORED))
        return int(session.scalars(stored).one())


def distrust(database: Database, begun: datetime, period: timedelta) -> None:
    """Make blobs due that were read at a time which is still to come: the clock was wrong then."""
    with database.write() as session:
        session.execute(update(Blob).where(Blob.checked_at > begun + RETRY).values(checked_at=begun - period))


def next_due(
    database: Database, begun: datetime, period: timedelta, failed: Collection[str] = ()
) -> tuple[str, bool] | None:
    """Return the blob that was read least recently, but none that failed, if due, and whether it is marked damaged."""
    due = Blob.checked_at <= begun - period / 2
    again = and_(Blob.damaged_at.is_not(None), Blob.checked_at <= begun - RETRY)
    with database.read() as session:
        row = session.execute(
            select(Blob.sha256, Blob.damaged_at)
            .where(Blob.state.in_(STORED), or_(due, again), Blob.sha256.not_in(failed))
            .order_by(Blob.checked_at, Blob.sha256)
            .limit(1)
        ).one_or_none()
    return None if row is None else (row.sha256, row.damaged_at is not None)


def forget_cached(store: Store, sha256: str) -> None:
    """Ask the system to drop a file's pages from memory, so that the disk itself is read."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        handle = os.open(store.path(sha256), os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def repair(database: Database, store: Store, bucket: Bucket, sha256: str) -> bool:
    """Store a damaged blob again from the bucket, if it has the blob; return whether it is sound now."""
    with database.read() as session:
        blob = session.get(Blob, sha256)
    if blob is None or blob.bucketed_at is None:
        return False
    try:
        with store.staged(bucket.read(sha256), sha256) as (staged, _, size), database.write() as session:
            if blobs.get_locked(session, sha256) is None:
                return False
            blobs.register(session, store, staged, sha256, size)
    except BreadcrumbError:
        return False
    return True

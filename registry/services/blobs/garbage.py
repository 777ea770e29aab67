"""Garbage collection: of expired uploads, abandoned staging files, and blobs that nothing refers to.

    no row <── row deleted, file gone ──┐
      │ register                        │ still so after another quarter of the grace
      v                                 │
    live ── no row refers to it, no lease, old enough ──> doomed
      ^────── leased again, or a row refers to it ──────────┘

The row of a blob whose bytes are elsewhere has no file: it is deleted as soon as it would be doomed.

Every step is decided by the database, under the lock of the blob's row, with two queries: the first finds and locks
rows; the second, begun when the locks are held, sees every row that was committed before and refers to them. Rows that
are locked are skipped; a transaction that waits for one of our locks finds no row, and the bytes must be sent again.

A file is deleted in three steps: it is moved aside, its row's deletion is committed, and it is unlinked. If the process
dies before the commit, the row still exists and the next run moves the file back; if it dies after, the next run
unlinks it. An object in a bucket is deleted first.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, exists, select, true
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import ELSEWHERE, STORED, Blob, Job, UploadSession, now
from registry.errors import StorageFailed
from registry.services.blobs import blobs, bucket_copies, removal, uploads
from registry.services.blobs.places import require_place
from registry.storage.bucket import Bucket
from registry.storage.disk_parts import staging_path
from registry.storage.store import Store

LOCK = "gc.lock"  # shared by all who delete blobs; a backup, which needs them, holds it alone
BATCH = 100  # blobs of one transaction
DOOMED_SHARE = 4  # a blob stays doomed for the grace divided by this
UNFINISHED = timedelta(days=1)  # after which what was sent of an object is never finished
PUT_SECONDS = 3600.0  # small files are written at once; after this time their writer must be dead


@dataclass(frozen=True)
class Amount:
    """How many of something, and their bytes on disk."""

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.count + other.count, self.bytes + other.bytes)


@dataclass(frozen=True)
class Collected:
    """What was removed, or would be; orphans are files that got a row, strays are objects of the bucket without one."""

    uploads: Amount  # as announced
    staged: Amount
    orphans: Amount
    doomed: Amount
    deleted: Amount
    strays: Amount = Amount()
    lost: int = 0  # blobs that the bucket should have but has not
    problem: str = ""  # why the bucket failed; what it holds stays until it answers
    held: bool = False  # whether a backup kept blobs from being deleted


class Undone(Exception):
    """Ends the transaction of a dry run, which is rolled back."""


def run(
    database: Database,
    store: Store,
    grace: timedelta,
    *,
    orphans: bool = True,
    dry: bool = False,
    bucket: Bucket | None = None,
    lent: timedelta = timedelta(0),
) -> Collected:
    """Collect what nothing has referred to for some time.

    Args:
        database: Has the rows.
        store: Has the bytes.
        grace: How old a blob must be to be doomed; it stays doomed for a quarter of that before it is deleted.
        orphans: Whether to look for files and objects without a row, too, which lists all of them, and waits for a
            process that is copying into the bucket.
        dry: Whether to change nothing, and only return what would be removed.
        bucket: The bucket with copies of blobs, if there is one.
        lent: How long addresses are good that the bucket store gave out; its objects stay as long.

    Raises:
        StorageFailed: A blob that was set aside could not be moved back.
        Unavailable: The blobs were moved to another place, where others collect.
    """
    strays, left = [], Amount()
    if not dry:  # first, since this needs no room to write in the database
        with database.read() as session:
            staged = abandoned(session, store, grace)
        left = discard(store, staged)
    if orphans:
        strays = blobs.find_orphans(database, store)
    if not dry:
        restore(database, store)

        def withdraw() -> None:
            if bucket is not None:
                bucket_copies.withdraw(database, store, bucket, now() - grace / DOOMED_SHARE, wait=orphans)

        collected = clear(
            database, database.write, store, grace, strays, dry, withdraw, bucketed=bucket is not None, lent=lent
        )
        collected = replace(collected, staged=left + collected.staged)
    else:
        with suppress(Undone), database.write() as session:
            collected = clear(database, lambda: nullcontext(session), store, grace, strays, dry)
            raise Undone
    if bucket is None or not orphans or collected.problem:
        return collected
    try:
        objects, lost = bucket_copies.reconcile(database, store, bucket, now() - grace, dry=dry)
    except StorageFailed as error:
        return replace(collected, problem=str(error))
    return replace(collected, strays=Amount(len(objects), sum(item.size for item in objects)), lost=len(lost))


def clear(
    database: Database,
    transactions: blobs.Transactions,
    store: Store,
    grace: timedelta,
    strays: Sequence[str],
    dry: bool,
    withdraw: Callable[[], None] = lambda: None,
    *,
    bucketed: bool = False,
    lent: timedelta = timedelta(0),
) -> Collected:
    """Run every step, each in a transaction of its own; a dry run has one for all, to see what the steps would do.

    Before blobs are deleted, `withdraw` deletes them from the bucket; with `bucketed`, those still in there are kept.
    """
    with transactions() as session:
        require_place(session, store)
        sizes = uploads.expire(session)
        staged = abandoned(session, store, grace)
    left = discard(store, staged, dry=dry)
    adopted = blobs.adopt_orphans(transactions, store, strays)
    doomed, seen = Amount(), BATCH
    while seen == BATCH:
        with transactions() as session:
            require_place(session, store)
            seen, added = doom(session, grace)
        doomed += added
    problem = ""
    try:
        withdraw()
    except StorageFailed as error:
        problem = str(error)
    deleted, seen = Amount(), BATCH
    with store.holding(LOCK, shared=True) as locked:
        while seen == BATCH and locked:
            with transactions() as session:
                require_place(session, store)
                seen, gone = delete(session, grace / DOOMED_SHARE, bucketed, stays=store.removes_later)
                for sha256 in () if dry else gone:
                    store.set_aside(sha256)
            for sha256 in () if dry else gone:
                store.drop(sha256)
            deleted += Amount(len(gone), sum(gone.values()))
        if locked and not dry and store.removes_later:
            try:
                removal.run(database, store, max(grace / DOOMED_SHARE, lent))
                store.parts.collect(lambda: open_uploads(database))
            except StorageFailed as error:
                problem = str(error)
            with suppress(StorageFailed):  # some servers do not list them, and some keys may not
                store.discard_unfinished(now() - max(grace, UNFINISHED))
    seen = BATCH
    while seen == BATCH:
        with transactions() as session:
            seen, forgotten = forget(session, grace, stays=store.removes_later)
        deleted += Amount(forgotten)
    given_rows = Amount(len(adopted), sum(adopted.values()))
    expired = Amount(len(sizes), sum(sizes))
    return Collected(expired, left, given_rows, doomed, deleted, problem=problem, held=not locked)


def unwanted() -> list[ColumnElement[bool]]:
    """Return the conditions for a blob that no row refers to and that is not leased."""
    return [Blob.leased_until <= now(), *(~exists().where(owner == Blob.sha256) for owner in blobs.OWNERS)]


def still_unwanted(session: Session, locked: Sequence[Blob]) -> set[str]:
    """Return the digests of those locked blobs that are unwanted now, after their locks were taken."""
    named = Blob.sha256.in_([blob.sha256 for blob in locked])
    return set(session.scalars(select(Blob.sha256).where(named, *unwanted())))


def lock_batch(session: Session, *conditions: ColumnElement[bool]) -> tuple[Sequence[Blob], set[str]]:
    """Lock up to BATCH blobs that are not locked; return them, and the digests of those that are certainly unwanted."""
    locked = session.scalars(
        select(Blob).where(*conditions).order_by(Blob.sha256).limit(BATCH).with_for_update(skip_locked=True)
    ).all()
    return locked, still_unwanted(session, locked)


def doom(session: Session, grace: timedelta) -> tuple[int, Amount]:
    """Doom up to BATCH unwanted blobs; return how many were examined, and what was doomed."""
    locked, unwanted_digests = lock_batch(session, Blob.state == "live", Blob.created_at <= now() - grace, *unwanted())
    doomed = [blob for blob in locked if blob.sha256 in unwanted_digests]
    for blob in doomed:
        blob.state, blob.doomed_at = "doomed", now()
    session.flush()
    return len(locked), Amount(len(doomed), sum(blob.size for blob in doomed))


def delete(
    session: Session, grace: timedelta, bucketed: bool = False, *, stays: bool = False
) -> tuple[int, dict[str, int]]:
    """Delete the rows of up to BATCH blobs that were doomed for some time; those that are wanted again become live.

    With `bucketed`, blobs that the bucket has are skipped: they must be deleted from it first. A row that `stays`
    says that its object is to be deleted (removal.py).

    Returns:
        How many were examined, and size by digest of those whose files must be moved aside before the commit.
    """
    deletable = Blob.bucketed_at.is_(None) if bucketed else true()
    locked, unwanted_digests = lock_batch(session, Blob.state == "doomed", Blob.doomed_at <= now() - grace, deletable)
    for blob in locked:
        if blob.sha256 not in unwanted_digests:
            blob.state, blob.doomed_at = "live", None
        elif stays:
            blob.state, blob.doomed_at, blob.damaged_at = "computed", now(), None
            blob.bucketed_at = None
        else:
            session.delete(blob)
    session.flush()
    return len(locked), {blob.sha256: blob.size for blob in locked if blob.sha256 in unwanted_digests}


def forget(session: Session, grace: timedelta, *, stays: bool = False) -> tuple[int, int]:
    """Delete the rows of up to BATCH unwanted blobs that are elsewhere; return how many were examined, and deleted.

    One whose object is to be deleted first `stays`.
    """
    here = Blob.doomed_at.is_(None) if stays else true()
    locked, unwanted_digests = lock_batch(
        session, Blob.state.in_(ELSEWHERE), Blob.created_at <= now() - grace, here, *unwanted()
    )
    for blob in locked:
        if blob.sha256 in unwanted_digests:
            session.delete(blob)
    session.flush()
    return len(locked), len(unwanted_digests)


def restore(database: Database, store: Store) -> None:
    """Finish what a killed run began: move a file that was set aside back if its row exists, else delete it."""
    for sha256 in store.set_aside_before():
        with database.write() as session:  # a run that is deleting it holds the lock
            row = session.get(Blob, sha256, with_for_update=True)
            if row is not None and row.state in STORED:
                store.put_back(sha256)
            store.drop(sha256)


def open_uploads(database: Database) -> set[uuid.UUID]:
    """Return the upload sessions that take parts."""
    with database.read() as session:
        return uploads.find_open(session)


def discard(store: Store, staged: Sequence[Path], *, dry: bool = False) -> Amount:
    """Remove files and folders of the staging area, and return how much they are; a dry run leaves them there."""
    left = Amount(len(staged), sum(disk_bytes(path) for path in staged))
    for path in () if dry else staged:
        store.discard(path)
    return left


def abandoned(session: Session, store: Store, grace: timedelta) -> list[Path]:
    """Return what is left in the staging area: files without a session, and those of dead writers and workers."""
    return [*stale(session, store), *left_by_the_dead(session, store, grace)]


def stale(session: Session, store: Store) -> list[Path]:
    """Return the staging files without a session."""
    staged = list(store.staging.glob("upload-*"))  # listed before the rows, since a file is younger than its session
    alive = {staging_path(store, upload_id).name for upload_id in session.scalars(select(UploadSession.id))}
    return [path for path in staged if path.name not in alive]


def left_by_the_dead(session: Session, store: Store, grace: timedelta) -> Iterator[Path]:
    """Yield the files and folders of writers and workers that have died."""
    for path in (*store.staging.glob("put-*"), *store.staging.glob("mirror-*")):
        if age(path) > max(grace.total_seconds(), PUT_SECONDS):
            yield path
    for path in store.staging.glob("job-*"):
        if age(path) > grace.total_seconds() and not is_running(session, path.name):
            yield path


def is_running(session: Session, name: str) -> bool:
    """Say whether a worker may be writing into `job-<id>-<attempt>`."""
    try:
        _, job_id, attempt = name.split("-")
        job = session.get(Job, uuid.UUID(job_id))
        return job is not None and job.state == "running" and job.attempt == int(attempt)
    except ValueError:
        return False


def age(path: Path) -> float:
    """Return the seconds since a file or folder was written; 0 if it is gone."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def disk_bytes(path: Path) -> int:
    """Return the bytes that a staged file or folder takes."""
    total = 0
    for file in [path, *path.rglob("*")]:
        with suppress(FileNotFoundError):
            total += file.lstat().st_blocks * 512
    return total

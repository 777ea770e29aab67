"""Clearing away what nobody needs: expired uploads, staged files that were left behind, and blobs.

    no row <── row deleted, file gone ──┐
      │ register                        │ still so after the second grace
      v                                 │
    live ── no reference, no lease, older than the grace ──> doomed
      ^─────── somebody wants it, or a reference is found ─────┘

The row of a blob at the Hub has no file to wait for: it is deleted as soon as it would be doomed.

Every step is decided by the database, under the lock of the blob's row, and asked twice: a first query finds and locks
rows, a second one, begun when the locks are held, sees every reference that was committed before. Rows that somebody
holds are skipped; who waits for a lock of ours finds no row, and has to send the bytes.

A file goes in three steps: aside, commit, away. When a process dies before the commit its row is still there, and the
next run moves the file back; when it dies after, the next run ends it. What is in a bucket leaves that first.
"""

import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from sqlalchemy import ColumnElement, exists, select, true
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import Blob, Job, now
from registry.errors import StorageFailed
from registry.files.names import HEX256
from registry.services.blobs import blobs, bucket_copies, uploads
from registry.storage.bucket import Bucket
from registry.storage.store import Store

BATCH = 100
SECOND = 4  # the grace of what is doomed is this part of the first
PUT_SECONDS = 3600.0  # a small file that is written at once; longer than that, and its writer is dead

Transactions = Callable[[], AbstractContextManager[Session]]


@dataclass(frozen=True)
class Amount:
    """How many of something, and their bytes on disk."""

    count: int = 0
    bytes: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.count + other.count, self.bytes + other.bytes)


@dataclass(frozen=True)
class Collected:
    """What went, or would go; orphans are files that got a row, strays are objects of the bucket without one."""

    uploads: Amount  # as announced
    staged: Amount
    orphans: Amount
    doomed: Amount
    deleted: Amount
    strays: Amount = Amount()
    lost: int = 0  # blobs that the bucket should have and has not
    problem: str = ""  # why the bucket did not do its part; what is in there stays until it does


class Undone(Exception):
    """A dry run is over: roll back."""


def run(
    database: Database,
    store: Store,
    grace: timedelta,
    *,
    orphans: bool = True,
    dry: bool = False,
    bucket: Bucket | None = None,
) -> Collected:
    """Clear away what nobody has needed for a time.

    Args:
        database: Where the decisions are made.
        store: Where the bytes are.
        grace: How old a blob must be to be doomed; it stays doomed for a quarter of that before it goes.
        orphans: Whether to look for files and objects without a row, too, which reads the names of all; it waits for
            whoever is copying into the bucket.
        dry: Whether to change nothing, and only say what would go.
        bucket: Where copies of blobs are, if anywhere.

    Raises:
        StorageFailed: a blob that was set aside could not be moved back.
    """
    strays = []
    if orphans:
        with database.read() as session:
            strays = blobs.find_orphans(session, store)
    if not dry:
        restore(database, store)

        def withdraw() -> None:
            if bucket is not None:
                bucket_copies.withdraw(database, store, bucket, now() - grace / SECOND, wait=orphans)

        report = clear(database.write, store, grace, strays, dry, withdraw, bucketed=bucket is not None)
    else:
        with suppress(Undone), database.write() as session:
            report = clear(lambda: nullcontext(session), store, grace, strays, dry)
            raise Undone
    if bucket is None or not orphans or report.problem:
        return report
    try:
        objects, lost = bucket_copies.reconcile(database, store, bucket, now() - grace, dry=dry)
    except StorageFailed as error:
        return replace(report, problem=str(error))
    return replace(report, strays=Amount(len(objects), sum(found.size for found in objects)), lost=len(lost))


def clear(
    transactions: Transactions,
    store: Store,
    grace: timedelta,
    strays: Sequence[str],
    dry: bool,
    withdraw: Callable[[], None] = lambda: None,
    *,
    bucketed: bool = False,
) -> Collected:
    """Take every step, in transactions of their own; those of a dry run are one, which sees what it would do.

    Before blobs are deleted, `withdraw` takes them out of the bucket; with `bucketed`, what is still in there stays.
    """
    with transactions() as session:
        sizes = uploads.expire(session)
        staged = [*uploads.stale(session, store), *abandoned(session, store, grace)]
    left = Amount(len(staged), sum(disk_bytes(path) for path in staged))
    for path in () if dry else staged:
        store.discard(path)
    with transactions() as session:
        adopted = blobs.adopt(session, store, strays)
    doomed, seen = Amount(), BATCH
    while seen == BATCH:
        with transactions() as session:
            seen, found = doom(session, grace)
        doomed += found
    problem = ""
    try:
        withdraw()
    except StorageFailed as error:
        problem = str(error)
    deleted, seen = Amount(), BATCH
    while seen == BATCH:
        with transactions() as session:
            seen, gone = delete(session, grace / SECOND, bucketed)
            for sha256 in () if dry else gone:
                set_aside(store, sha256)
        for sha256 in () if dry else gone:
            aside(store, sha256).unlink(missing_ok=True)
        deleted += Amount(len(gone), sum(gone.values()))
    seen = BATCH
    while seen == BATCH:
        with transactions() as session:
            seen, forgotten = forget(session, grace)
        deleted += Amount(forgotten)
    added = Amount(len(adopted), sum(adopted.values()))
    return Collected(Amount(len(sizes), sum(sizes)), left, added, doomed, deleted, problem=problem)


def unwanted() -> list[ColumnElement[bool]]:
    """Return the conditions for a blob that nothing refers to and nobody has leased."""
    return [Blob.leased_until <= now(), *(~exists().where(owner == Blob.sha256) for owner in blobs.OWNERS)]


def still_unwanted(session: Session, locked: Sequence[Blob]) -> set[str]:
    """Return which of some blobs whose locks we hold are unwanted, as of now and not as of when they were found."""
    named = Blob.sha256.in_([blob.sha256 for blob in locked])
    return set(session.scalars(select(Blob.sha256).where(named, *unwanted())))


def lock_batch(session: Session, *conditions: ColumnElement[bool]) -> tuple[Sequence[Blob], set[str]]:
    """Lock up to BATCH blobs that nobody else holds; return them, and the digests of those that are surely unwanted."""
    found = session.scalars(
        select(Blob).where(*conditions).order_by(Blob.sha256).limit(BATCH).with_for_update(skip_locked=True)
    ).all()
    return found, still_unwanted(session, found)


def doom(session: Session, grace: timedelta) -> tuple[int, Amount]:
    """Doom up to BATCH unwanted blobs; return how many were looked at, and what was doomed."""
    found, sure = lock_batch(session, Blob.state == "live", Blob.created_at <= now() - grace, *unwanted())
    doomed = [blob for blob in found if blob.sha256 in sure]
    for blob in doomed:
        blob.state, blob.doomed_at = "doomed", now()
    session.flush()
    return len(found), Amount(len(doomed), sum(blob.size for blob in doomed))


def delete(session: Session, grace: timedelta, bucketed: bool = False) -> tuple[int, dict[str, int]]:
    """Delete the rows of up to BATCH blobs that have been doomed for a time, and pardon those that are wanted again.

    With `bucketed`, those that a bucket has are passed over: they have to leave it first.

    Returns:
        How many were looked at, and size by digest of those whose files have to go before the commit.
    """
    there = Blob.bucketed_at.is_(None) if bucketed else true()
    found, sure = lock_batch(session, Blob.state == "doomed", Blob.doomed_at <= now() - grace, there)
    for blob in found:
        if blob.sha256 in sure:
            session.delete(blob)
        else:
            blob.state, blob.doomed_at = "live", None
    session.flush()
    return len(found), {blob.sha256: blob.size for blob in found if blob.sha256 in sure}


def forget(session: Session, grace: timedelta) -> tuple[int, int]:
    """Delete the rows of up to BATCH unwanted blobs at the Hub; return how many were looked at, and how many went."""
    found, sure = lock_batch(session, Blob.state == "remote", Blob.created_at <= now() - grace, *unwanted())
    for blob in found:
        if blob.sha256 in sure:
            session.delete(blob)
    session.flush()
    return len(found), len(sure)


def aside(store: Store, sha256: str) -> Path:
    """Return where a blob's file is between the decision to delete it and the commit."""
    return store.staging / f"trash-{sha256}"


def set_aside(store: Store, sha256: str) -> None:
    """Take a blob's file from its place; the caller holds the lock of its row."""
    with store.writing(f"blob {sha256}"), suppress(FileNotFoundError):
        store.path(sha256).replace(aside(store, sha256))


def restore(database: Database, store: Store) -> None:
    """End what a killed run has begun: a file that was set aside goes back if its row is there, and away if not."""
    for path in sorted(store.staging.glob("trash-*")):
        sha256 = path.name.removeprefix("trash-")
        if not re.fullmatch(HEX256, sha256):
            continue
        with database.write() as session:  # a run that is at it holds the lock
            row = session.get(Blob, sha256, with_for_update=True)
            if row is not None and not store.exists(sha256) and path.exists():
                store.adopt(path, sha256)
            path.unlink(missing_ok=True)


def abandoned(session: Session, store: Store, grace: timedelta) -> Iterator[Path]:
    """Yield what writers and workers that died have left in the staging area."""
    for path in store.staging.glob("put-*"):
        if age(path) > max(grace.total_seconds(), PUT_SECONDS):
            yield path
    for path in store.staging.glob("job-*"):
        if age(path) > grace.total_seconds() and not in_hand(session, path.name):
            yield path


def in_hand(session: Session, name: str) -> bool:
    """Say whether a worker may be writing into `job-<id>-<attempt>`."""
    try:
        _, job_id, attempt = name.split("-")
        job = session.get(Job, uuid.UUID(job_id))
        return job is not None and job.state == "running" and job.attempt == int(attempt)
    except ValueError:
        return False


def age(path: Path) -> float:
    """Return the seconds since a file was written, or a folder made; none when it is gone."""
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

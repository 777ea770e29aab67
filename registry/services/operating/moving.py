"""Moving: all blobs of a registry from disk to a bucket or back, while it works.

    copied, as long as there are more ──> one transaction: nothing is left, and the database says where they are now
                                             └─ servers and workers that know it otherwise store nothing more

What was copied is not copied again, so an interrupted move goes on. Where blobs are stored is read by every transaction
that stores one, and locked by the one that changes it: so none is stored in the old place afterwards. What is there
stays, and whoever runs on can read it.
"""

from collections.abc import Collection

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import STORED, Blob, now
from registry.errors import StorageFailed
from registry.services.blobs import bucket_copies, damage, garbage, places
from registry.services.operating.placing import Placed, place
from registry.storage.store import Store

SOUND: tuple[ColumnElement[bool], ...] = Blob.state.in_(STORED), Blob.damaged_at.is_(None)


def move(database: Database, source: Store, target: Store) -> Placed:
    """Copy all blobs to where they are to be kept, and record that they are there.

    Returns:
        What was copied; its problems are blobs that are damaged in both places, and marked so.

    Raises:
        StorageFull, StorageFailed: A disk or the bucket failed, or most blobs are lacking; what was copied stays.
    """
    disk = source if target.kind == "bucket" else target
    with disk.holding(bucket_copies.LOCK, wait=True):  # workers that keep copies in the bucket delete there, too
        garbage.restore(database, source)  # a collector that was killed may have set files aside
        for sha256 in marked(database):
            damage.examine(database, source, sha256)  # somebody may have put its file back
        return move_all(database, source, target)


def move_all(database: Database, source: Store, target: Store) -> Placed:
    """Copy until nothing is left, and record that, as `move` does; the caller holds the lock of the copies."""
    done, total = set[str](), Placed()
    while True:
        with database.read() as session:
            query = select(Blob).where(*SOUND).order_by(Blob.sha256)
            blobs = {blob.sha256: blob for blob in session.scalars(query) if blob.sha256 not in done}
        placed = place(source, target, blobs, hashed=True)
        if len(placed.lacking) > len(blobs) / 2:
            raise lacking(source, len(placed.lacking), len(blobs))
        for sha256 in placed.lacking:
            require_damaged(database, source, sha256)
        done |= blobs.keys() - set(placed.lacking)  # which may be repaired meanwhile, and are to be copied then
        total += placed
        with database.write() as session:
            if switch(session, target.kind, done):
                return total


def lacking(source: Store, missing: int, known: int) -> StorageFailed:
    """Return the error for a place that lacks most blobs, and is rather the wrong one than damaged."""
    return StorageFailed(
        f"{source.place} lacks {missing} of {known} blobs. See that --data and REGISTRY_BUCKET name where they are; "
        "if they do, `crumb-server check` marks what is damaged, and the others can be moved then."
    )


def marked(database: Database) -> list[str]:
    """Return the digests of the blobs that are marked as damaged."""
    with database.read() as session:
        return list(session.scalars(select(Blob.sha256).where(Blob.damaged_at.is_not(None))))


def require_damaged(database: Database, source: Store, sha256: str) -> None:
    """Mark a blob that could not be copied as damaged.

    Raises:
        StorageFailed: It is stored and sound, so it should have been copied.
    """
    damage.examine(database, source, sha256)
    with database.read() as session:
        blob = session.get(Blob, sha256)
    if blob is not None and blob.state in STORED and blob.damaged_at is None:
        raise StorageFailed(f"The blob {sha256} could not be copied, though it is sound; move the blobs again.")


def switch(session: Session, kind: str, done: Collection[str]) -> bool:
    """Record where the blobs are kept from now on, if none is left to copy; return whether that was done."""
    places.kept_in(session, alone=True)
    if any(sha256 not in done for sha256 in session.scalars(select(Blob.sha256).where(*SOUND))):
        return False
    places.keep_in(session, kind)
    bucket_copies.disclaim_all(session)
    if kind == "disk":  # and the bucket has copies
        session.execute(update(Blob).where(*SOUND).values(bucketed_at=now()))
    return True

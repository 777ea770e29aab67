"""Blobs: the rows for stored bytes, with registration, leases and proof of possession.

A blob's row and its file come and go under the row's lock: the file is in place before the commit that makes the row
visible, and garbage.py removes it only in a transaction in which no row refers to the blob. Code that is about to add
such a row takes a lease under the same lock first, so either the collector sees the row, or the code sees that the blob
is gone. The row of a `remote` blob stands for bytes at the Hub, that of a `computed` one for bytes of a composition,
until they arrive here in another way. Knowing a digest
grants nothing: `readable` asks whether the user could download the bytes or has sent them.

The lock is FOR NO KEY UPDATE. It excludes the collector's FOR UPDATE and other holders of this lock, but not the share
lock of a foreign key; rows are locked in the order of their digests. So there are no deadlocks.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import timedelta
from pathlib import Path

from sqlalchemy import exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import (
    ELSEWHERE,
    STORED,
    BaseFile,
    Blob,
    Composition,
    CompositionFile,
    JobPart,
    Model,
    Patch,
    PatchRevision,
    PushedFile,
    RecipeItem,
    ReleaseFile,
    RevisionFile,
    UploadSession,
    now,
)
from registry.errors import StorageFailed, Unavailable
from registry.services.blobs.places import require_place
from registry.services.people import access
from registry.services.people.actors import Actor
from registry.storage.store import Store

LEASE = timedelta(hours=24)  # how long a blob is kept after somebody asked for it, whether or not rows refer to it
ORPHANS_AT_ONCE = 20  # that one transaction gives rows
Transactions = Callable[[], AbstractContextManager[Session]]
OWNERS = (
    BaseFile.sha256,
    PatchRevision.blob_sha256,
    PushedFile.blob_sha256,
    RevisionFile.sha256,
    CompositionFile.sha256,
    ReleaseFile.sha256,
    JobPart.blob_sha256,
    UploadSession.sha256,
)


def register(session: Session, store: Store, staged: Path | None, sha256: str, size: int) -> None:
    """Make a staged file a blob; the caller guarantees that its bytes hash to `sha256`.

    With None, the store has been given the bytes just now. A staged file of another size is left over when a process
    was killed after the bytes had been renamed into place: then the blob's file exists, and only its row is missing.

    Raises:
        StorageFull, StorageFailed: The disk failed; roll back.
        Unavailable: The blobs were moved to another place, or the object is being deleted.
    """
    require_place(session, store)
    blob, _ = find_or_add(session, sha256, size)
    require_not_removed(blob, store)
    if staged is not None and staged.is_file() and staged.stat().st_size == size:
        store.adopt(staged, sha256, again=blob.damaged_at is not None)
    elif (staged is not None and blob.damaged_at is not None) or store.size(sha256) != size:
        raise StorageFailed(f"The bytes of {sha256} are gone; send them again.")
    revive(session, blob, size)


def require_not_removed(blob: Blob, store: Store) -> None:
    """Refuse to store bytes whose object may be deleted by a request that is under way; see removal.py.

    Raises:
        Unavailable: It may.
    """
    if store.removes_later and blob.state in ELSEWHERE and blob.doomed_at and blob.bucketed_at:
        raise Unavailable(
            f"The bytes of {blob.sha256} are being deleted from the bucket; send them again in some minutes."
        )


def lock(session: Session, store: Store, sha256: str, size: int) -> None:
    """Lock a blob's row and lease it, adding it if new; the caller stores its bytes, whether or not they are here.

    Raises:
        Unavailable: The blobs were moved to another place, or the object is being deleted.
    """
    require_place(session, store)
    blob, _ = find_or_add(session, sha256, size)
    require_not_removed(blob, store)
    revive(session, blob, size)


def revive(session: Session, blob: Blob, size: int) -> None:
    """Record that sound bytes of a blob are here, and lease it; the caller holds its lock."""
    blob.state, blob.doomed_at, blob.size = "live", None, size
    blob.checked_at, blob.damaged_at = now(), None
    keep(blob)
    session.flush()


def refer(session: Session, sha256: str, size: int, state: str = "remote", *, told: bool = False) -> None:
    """Lock and lease the row of a blob whose bytes are elsewhere, adding it if new; a live blob stays live.

    Args:
        session: A writing transaction.
        sha256: The digest.
        size: In bytes.
        state: `remote` or `computed`.
        told: Whether another registry says the size, which then counts only until it is known here.
    """
    blob, _ = find_or_add(session, sha256, size, state)
    if not told and blob.state in ELSEWHERE:
        blob.size = size
    if state == "remote" and blob.state == "computed":
        blob.state = state  # where the bytes are, and not only what they are computed from
    keep(blob)
    session.flush()


def find_or_add(session: Session, sha256: str, size: int, state: str = "live") -> tuple[Blob, bool]:
    """Return a blob's row, locked, and whether it was added; waits for a transaction that is adding the same one."""
    added = False
    while (blob := get_locked(session, sha256)) is None:
        with suppress(IntegrityError), session.begin_nested():
            session.add(Blob(sha256=sha256, size=size, state=state))
            session.flush()
            added = True
    return blob, added


def get_locked(session: Session, sha256: str) -> Blob | None:
    """Lock a blob's row and return it as it is then; None if there is no such row."""
    return session.get(Blob, sha256, with_for_update={"key_share": True}, populate_existing=True)


def lease(session: Session, digests: Collection[str]) -> dict[str, int]:
    """Lock and lease those blobs that are still here, doomed or not; return their size by digest."""
    rows = session.scalars(
        select(Blob)
        .where(Blob.sha256.in_(set(digests)), Blob.state.in_(STORED))
        .order_by(Blob.sha256)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    for blob in rows:
        keep(blob)
    session.flush()
    return {blob.sha256: blob.size for blob in rows}


def sizes_of(session: Session, digests: Collection[str]) -> dict[str, int]:
    """Return the sizes of those blobs that have rows, by digest."""
    rows = session.execute(select(Blob.sha256, Blob.size).where(Blob.sha256.in_(set(digests))))
    return {row.sha256: row.size for row in rows}


def keep(blob: Blob) -> None:
    """Extend a blob's lease, so that the collector leaves it alone; the caller holds its lock."""
    if blob.state == "doomed":
        blob.state, blob.doomed_at = "live", None
    if blob.leased_until < now() + LEASE / 2:  # saves a write for each of a thousand files
        blob.leased_until = now() + LEASE


def readable(session: Session, actor: Actor | None, digests: Collection[str]) -> dict[str, int]:
    """Return size by digest of those blobs that the actor may use without sending their bytes.

    These are the blobs that they have sent before, and files of bases, patches and compositions that they could
    download; without an actor, those that everybody could. They are locked and leased, so rows that refer to them may
    be added in this transaction. Blobs whose bytes are not here, and damaged ones, are left out.
    """
    shown = access.visible(actor)
    user = actor.user_id if actor else None
    sent = exists().where(
        UploadSession.sha256 == Blob.sha256, UploadSession.user_id == user, UploadSession.state == "done"
    )
    base = exists().where(BaseFile.sha256 == Blob.sha256, BaseFile.model_id == Model.id, Model.state == "ready", shown)
    checked = (
        PatchRevision.state == "checked",
        PatchRevision.patch_id == Patch.id,
        Patch.quarantined_at.is_(None),
        Patch.model_id == Model.id,
        shown,
    )
    patch = exists().where(PatchRevision.blob_sha256 == Blob.sha256, *checked)
    beside = exists().where(RevisionFile.sha256 == Blob.sha256, RevisionFile.revision_id == PatchRevision.id, *checked)
    quarantined = exists().where(
        RecipeItem.recipe_digest == Composition.recipe_digest,
        PatchRevision.sha256 == RecipeItem.sha256,
        PatchRevision.patch_id == Patch.id,
        Patch.model_id == Composition.model_id,
        Patch.quarantined_at.is_not(None),
    )
    composed = exists().where(
        CompositionFile.sha256 == Blob.sha256,
        CompositionFile.composition_id == Composition.id,
        Composition.model_id == Model.id,
        shown,
        ~quarantined,
    )
    allowed = session.scalars(
        select(Blob.sha256).where(
            Blob.sha256.in_(set(digests)),
            Blob.state.in_(STORED),
            Blob.damaged_at.is_(None),
            or_(sent, base, patch, beside, composed),
        )
    ).all()
    return lease(session, allowed)


def adopt_orphans(transactions: Transactions, store: Store, orphans: Sequence[str]) -> dict[str, int]:
    """Add a row for every blob file without one (its writer died before the commit); return size by digest.

    An orphan with a row is then collected like other garbage.

    Args:
        transactions: Begins a transaction for a few of them: it asks the store for each.
        store: The store.
        orphans: The digests of the files.

    Raises:
        Unavailable: The blobs were moved to another place.
    """
    adopted = dict[str, int]()
    for start in range(0, len(orphans), ORPHANS_AT_ONCE):
        with transactions() as session:
            adopted |= adopt(session, store, orphans[start : start + ORPHANS_AT_ONCE])
    return adopted


def find_orphans(database: Database, store: Store) -> list[str]:
    """Return the digests of blob files without a row; the transaction that adds some of these rows may be under way."""
    return compare(database, store)[0]


def compare(database: Database, store: Store) -> tuple[list[str], list[str]]:
    """List the store; return the digests of files without a row, and of rows that say of nothing that it is here.

    Both may have changed since: a transaction may be under way that adds such a row, or deletes such bytes.
    """
    with database.read() as session:
        sound = dict(
            session.execute(select(Blob.sha256, Blob.damaged_at.is_(None)).where(Blob.state.in_(STORED))).all()
        )
    orphans = []
    for sha256 in store.digests():
        if sha256 in sound:
            sound[sha256] = False
        else:
            orphans.append(sha256)
    return orphans, [sha256 for sha256, missing in sound.items() if missing]


def adopt(session: Session, store: Store, orphans: Collection[str]) -> dict[str, int]:
    """Add rows, without a lease, for files that have none; return size by digest of those that still had none.

    Raises:
        Unavailable: The blobs were moved to another place.
    """
    require_place(session, store)
    adopted = {}
    for sha256 in sorted(orphans):
        blob, added = find_or_add(session, sha256, 0)
        if blob.state in ELSEWHERE and blob.doomed_at is not None and store.removes_later:
            continue  # it is about to be deleted
        if not added and blob.state not in ELSEWHERE:
            continue
        size = store.size(sha256)
        if size is not None and (added or size == blob.size):
            adopted[sha256] = blob.size = size
            blob.state = "live"
        elif size is not None and store.removes_later:
            blob.doomed_at = now()  # it is another's bytes, or cut, and is to go
        elif added:  # another process was faster, and has collected it since
            session.delete(blob)
    session.flush()
    return adopted

"""The rows that stand for bytes: registering, leases, proof of possession, checking.

A blob's row and its file come and go under the row's lock: the file is in place before the commit that makes the row
visible, and services/garbage.py takes it away only in a transaction that has seen no reference. Whoever is about to
refer to a blob takes a lease under the same lock first, so either the collector sees the reference, or whoever wants
the blob sees that it is gone. The row of a `remote` blob stands for bytes at the Hub, until they come here all the same
by another way. Knowing a digest grants nothing: `readable` asks whether the user could download the bytes or has sent
them.

The lock is FOR NO KEY UPDATE. It excludes the collector's FOR UPDATE and others who want the lock, but not the share
lock of a foreign key; rows are locked in the order of their digests. So nobody waits in a circle.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from sqlalchemy import exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from registry.db.session import Database
from registry.db.tables import (
    BaseFile,
    Blob,
    Composition,
    CompositionFile,
    Model,
    Patch,
    PatchRevision,
    RecipeItem,
    ReleaseFile,
    UploadSession,
    now,
)
from registry.errors import StorageFailed
from registry.files.hashing import hash_file
from registry.services.people import access
from registry.services.people.actors import Actor
from registry.storage.store import Store

LEASE = timedelta(hours=24)  # how long a blob is kept for whoever has wanted it, referred to or not
OWNERS = (
    BaseFile.sha256,
    PatchRevision.blob_sha256,
    CompositionFile.sha256,
    ReleaseFile.sha256,
    UploadSession.sha256,
)


def register(session: Session, store: Store, staged: Path, sha256: str, size: int) -> None:
    """Make a staged file a blob; the caller vouches that its bytes hash to `sha256`.

    A staged file of another size is what is left when a process was killed after the bytes had been renamed into
    place; the blob is there then, and only its row is missing.

    Raises:
        StorageFull, StorageFailed: the disk failed; roll back.
    """
    lock(session, sha256, size)
    if staged.is_file() and staged.stat().st_size == size:
        store.adopt(staged, sha256)
    elif not store.exists(sha256):
        raise StorageFailed(f"The bytes of {sha256} are gone; send them again.")


def lock(session: Session, sha256: str, size: int) -> None:
    """Lock a blob's row and lease it, adding it when new; the caller sees to it that its bytes are here."""
    blob, _ = find_or_add(session, sha256, size)
    blob.state, blob.doomed_at = "live", None
    keep(blob)
    session.flush()


def refer(session: Session, sha256: str, size: int) -> None:
    """Lock and lease the row of a blob whose bytes are at the Hub, adding it when new; here already, it stays so."""
    blob, _ = find_or_add(session, sha256, size, "remote")
    keep(blob)
    session.flush()


def find_or_add(session: Session, sha256: str, size: int, state: str = "live") -> tuple[Blob, bool]:
    """Return a blob's row, locked, and whether it was added; a twin that another transaction adds is waited for."""
    added = False
    while (blob := get_locked(session, sha256)) is None:
        with suppress(IntegrityError), session.begin_nested():
            session.add(Blob(sha256=sha256, size=size, state=state))
            session.flush()
            added = True
    return blob, added


def get_locked(session: Session, sha256: str) -> Blob | None:
    """Return a blob's row as it is once nobody else holds its lock."""
    return session.get(Blob, sha256, with_for_update={"key_share": True}, populate_existing=True)


def lease(session: Session, digests: Collection[str]) -> dict[str, int]:
    """Lock and lease those blobs that are still there, doomed or not; return their size by digest."""
    found = session.scalars(
        select(Blob)
        .where(Blob.sha256.in_(set(digests)))
        .order_by(Blob.sha256)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    for blob in found:
        keep(blob)
    session.flush()
    return {blob.sha256: blob.size for blob in found}


def keep(blob: Blob) -> None:
    """Let the collector leave a blob alone for a while; the caller holds its lock."""
    if blob.state == "doomed":
        blob.state, blob.doomed_at = "live", None
    if blob.leased_until < now() + LEASE / 2:  # not a write for each of a thousand files each time
        blob.leased_until = now() + LEASE


def readable(session: Session, actor: Actor, digests: Collection[str]) -> dict[str, int]:
    """Return size by digest of those blobs that somebody may use without sending bytes.

    These are what they have sent before, and files of bases, patches and compositions that they could download. They
    are locked and leased, so a reference to them may be added in this transaction. What is at the Hub is not among
    them: it would be here for nobody.
    """
    seen = access.visible(actor)
    sent = exists().where(
        UploadSession.sha256 == Blob.sha256, UploadSession.user_id == actor.user_id, UploadSession.state == "done"
    )
    base = exists().where(BaseFile.sha256 == Blob.sha256, BaseFile.model_id == Model.id, Model.state == "ready", seen)
    patch = exists().where(
        PatchRevision.blob_sha256 == Blob.sha256,
        PatchRevision.state == "checked",
        PatchRevision.patch_id == Patch.id,
        Patch.quarantined_at.is_(None),
        Patch.model_id == Model.id,
        seen,
    )
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
        seen,
        ~quarantined,
    )
    found = session.scalars(
        select(Blob.sha256).where(
            Blob.sha256.in_(set(digests)), Blob.state != "remote", or_(sent, base, patch, composed)
        )
    ).all()
    return lease(session, found)


def adopt_orphans(session: Session, store: Store) -> int:
    """Give a row of its own to every blob file without one (its writer died before the commit); return how many.

    An orphan with a row is ordinary garbage.
    """
    return len(adopt(session, store, find_orphans(session, store)))


def find_orphans(session: Session, store: Store) -> list[str]:
    """Return the digests of blob files without a row that says so; the row of some may be on its way."""
    known = set(session.scalars(select(Blob.sha256).where(Blob.state != "remote")))
    return [sha256 for sha256 in store.digests() if sha256 not in known]


def adopt(session: Session, store: Store, orphans: Collection[str]) -> dict[str, int]:
    """Give rows to files that have none, without a lease; return the sizes of those that still needed one."""
    adopted = {}
    for sha256 in sorted(orphans):
        with suppress(FileNotFoundError):  # another process was quicker, and has cleared it away as well
            size = store.path(sha256).stat().st_size
            blob, added = find_or_add(session, sha256, size)
            if (added or blob.state == "remote") and store.exists(sha256):
                adopted[sha256], blob.state = size, "live"
            elif added:
                session.delete(blob)
    session.flush()
    return adopted


def check(database: Database, store: Store) -> Iterator[str]:
    """Yield one sentence for every blob that is missing, damaged, of another size, or without a row.

    Those at the Hub are not missing here.

    No transaction is held while hashing, so a registry may be checked while it works: what looks wrong is looked at
    again before it is reported, once nobody holds the lock of its row.
    """

    def settled(sha256: str) -> bool:
        with database.write() as session:
            return get_locked(session, sha256) is not None

    with database.read() as session:
        sizes = {blob.sha256: blob.size for blob in session.execute(select(Blob.sha256, Blob.size))}
        remote = set(session.scalars(select(Blob.sha256).where(Blob.state == "remote")))
    for sha256, size in sorted(sizes.items()):
        if sha256 in remote and not store.exists(sha256):
            continue
        if flaw(store, sha256, size) and settled(sha256) and (wrong := flaw(store, sha256, size)):
            yield f"The blob {sha256} {wrong}."
    for sha256 in store.digests():
        if sha256 not in sizes and not settled(sha256) and store.exists(sha256):
            yield f"The file {sha256} has no row; the next start of a worker, or `crumb-server gc`, sees to it."


def flaw(store: Store, sha256: str, size: int) -> str | None:
    """Say what is wrong with a blob's file, if anything."""
    path = store.path(sha256)
    if not path.is_file():
        return "is missing"
    if path.stat().st_size != size:
        return f"has {path.stat().st_size} bytes, not {size}"
    return None if hash_file(path) == sha256 else "is damaged: its bytes hash to something else"

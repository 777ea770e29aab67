"""Backups: a folder with the database at one moment and every blob that it names; and a registry from such a folder.

    BACKUP/backup.json               which database file is the backup, and what it should hold; replaced last
    BACKUP/database-<time>.db|dump   the database
    BACKUP/blobs/sha256/ab/cd/<hex>  blobs: hard links where the file system allows them, else copies

The database comes first. Nothing that it names is collected meanwhile, since the backup holds the collector's lock, a
file that the system releases when its holder dies. A backup that is killed leaves the one before it whole: backup.json
names the new database once all is on disk, and only then does the old one go.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db import dumps
from registry.db.audit import check_chain, read_head
from registry.db.session import Database, migrate, open_database
from registry.db.tables import STORED, AuditEvent, Blob, now
from registry.errors import BreadcrumbError, DigestMismatch, InvalidRequest, NotFound, WrongState
from registry.files.durable import new_files, storage_error, sync_folder
from registry.files.hashing import hash_file
from registry.services.blobs import bucket_copies, damage, garbage, places
from registry.services.operating import identity
from registry.services.operating.placing import Placed, place
from registry.storage.store import Store

FORMAT, MANIFEST, LOCK, RESTORING = 1, "backup.json", "backup.lock", "restoring"


@dataclass(frozen=True)
class BackupManifest:
    """What backup.json says; `serial` and `hash` are the head of the audit log before the database was written.

    `registry` is the id of the registry; None of one that had none yet.
    """

    format: int
    made_at: str
    kind: str
    database: str
    sha256: str
    serial: int
    hash: str
    registry: str | None = None


def back_up(database: Database, store: Store, url: str, folder: Path) -> Placed:
    """Back up a registry, which may be at work, into a new folder or into that of the backup before.

    Args:
        database: Has the rows.
        store: Has the blobs.
        url: The SQLAlchemy URL of the database.
        folder: Where the backup goes.

    Raises:
        InvalidRequest: The folder holds something else, or the backup of another registry.
        WrongState: Another backup into the folder is under way.
        StorageFull, StorageFailed, Unavailable: A disk or the database failed.
        MissingExtra: pg_dump is not installed.
    """
    target = Store(folder, reserve=0)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not (folder / LOCK).exists():
            raise InvalidRequest(f"The folder {folder} holds something else; give a new one, or one of a backup.")
        with target.holding(LOCK) as locked:
            if not locked:
                raise WrongState(f"Another backup into {folder} is under way; wait until it ends.")
            with store.holding(garbage.LOCK, wait=True):
                garbage.restore(database, store)  # a collector that was killed may have set files aside
                with database.read() as session:
                    head, own = read_head(session), identity.read_id(session)
                    require_same(session, folder, own)
                made_at, kind = now(), dumps.kind(url)
                file = folder / f"database-{made_at:%Y%m%dT%H%M%S%fZ}.{dumps.SUFFIXES[kind]}"
                dumps.dump(url, file)
                sync_file(file)
                with database.read() as session:  # after the dump, so these are all that it names
                    blobs = stored_blobs(session)
                placed = place(store, target, blobs)
            manifest = BackupManifest(
                FORMAT,
                made_at.isoformat(),
                kind,
                file.name,
                hash_file(file),
                int(head["serial"]),
                str(head["hash"]),
                own,
            )
            with new_files([folder / MANIFEST]) as (written,):
                written.write(json.dumps(asdict(manifest), indent=2).encode())
            prune(target, blobs, file.name)
    return placed


def restore(
    folder: Path,
    data: Path,
    url: str,
    opening: Callable[[Database], Store] | None = None,
    *,
    replacing: bool = False,
) -> Placed:
    """Make a registry from a backup, in an empty data folder and an empty database, and check all of it.

    An interrupted restore is continued.

    Args:
        folder: The backup.
        data: The data folder.
        url: The SQLAlchemy URL of the database.
        opening: Opens the store that the blobs go to, on disk in the data folder if None.
        replacing: Whether the registry whose bucket it is, is gone for good.

    Raises:
        NotFound: The folder holds no backup.
        InvalidRequest: The data folder, the database or the bucket is not empty, or the database is of another kind.
        WrongState: A restore of another backup was begun there, or the backup is of a later version.
        DigestMismatch: The backup's database is damaged.
        StorageFull, StorageFailed, Unavailable: A disk or the database failed.
        MissingExtra: pg_restore is not installed.
    """
    manifest = read_manifest(folder)
    if manifest.kind != dumps.kind(url):
        raise InvalidRequest(
            f"The backup is of a {manifest.kind} database; set DATABASE_URL to a new one of that kind."
        )
    with disk_errors(data):
        data.mkdir(parents=True, exist_ok=True)
        marker, store = data / RESTORING, Store(data, reserve=0)
        if not marker.exists():
            if any(data.iterdir()):
                raise InvalidRequest(f"The folder {data} is not empty; give a new one with --data.")
            if not dumps.is_empty(url):
                raise InvalidRequest("The database is not empty; create a new one, and name it in DATABASE_URL.")
            marker.write_text(manifest.sha256)
        elif marker.read_text().partition(" ")[0] not in ("", manifest.sha256):
            raise WrongState(f"A restore of another backup into {data} was begun; finish that, or give a new folder.")
        store.prepare()
        file = folder / manifest.database
        if hash_file(file) != manifest.sha256:
            raise DigestMismatch(f"The file {file} of the backup is damaged; restore another backup.")
        if dumps.is_empty(url):
            dumps.load(url, file)
        migrate(url)
        database = open_database(url)
        try:
            with database.read() as session:
                blobs, problems = stored_blobs(session), [*check_chain(session), *check_head(session, manifest)]
            with database.write() as session:
                bucket_copies.disclaim_all(session)
                own = identity.read_id(session)
            target = store if opening is None else opening(database)
            begun = f"{manifest.sha256} {target.where}"
            if marker.read_text() != begun:
                if not replacing:
                    target.require_unused()
                marker.write_text(begun)
            if own is not None:
                target.own(own)
            with database.write() as session:
                places.keep_in(session, target.kind)
            source = Store(folder, reserve=0)
            placed = place(source, target, blobs)
            wrong = list(damage.check(database, target))
            if wrong and target.kind == "bucket":  # an object that was there in its size may hold other bytes
                with database.read() as session:
                    blobs = stored_blobs(session)
                place(source, target, {sha256: blob for sha256, blob in blobs.items() if blob.damaged_at})
                wrong = list(damage.check(database, target))
            placed.problems = [*problems, *wrong]
        finally:
            database.engine.dispose()
        marker.unlink()
        sync_folder(data)
    return placed


def read_manifest(folder: Path) -> BackupManifest:
    """Return what backup.json says.

    Raises:
        NotFound: There is no complete backup, or none of this format.
    """
    try:
        manifest = BackupManifest(**json.loads((folder / MANIFEST).read_bytes()))
    except FileNotFoundError:
        raise NotFound(f"There is no complete backup in {folder}; `crumb-server backup` writes one.") from None
    except (ValueError, TypeError):
        raise NotFound(f"The file {folder / MANIFEST} is not that of a backup.") from None
    if manifest.format != FORMAT or Path(manifest.database).name != manifest.database:
        raise NotFound(f"The file {folder / MANIFEST} is of another version of breadcrumb-registry.")
    return manifest


def require_same(session: Session, folder: Path, own: str | None) -> None:
    """Refuse to renew the backup of another registry, whose blobs would go; one without an id is known by its log.

    Raises:
        InvalidRequest: The folder holds the backup of another registry.
    """
    if not (folder / MANIFEST).exists():
        return
    manifest = read_manifest(folder)
    if manifest.registry not in (None, own) or (manifest.registry is None and any(check_head(session, manifest))):
        raise InvalidRequest(
            f"The folder {folder} holds a backup of the registry {manifest.registry or 'of another audit log'}; give "
            "another folder."
        )


def stored_blobs(session: Session) -> dict[str, Blob]:
    """Return every blob on disk by its digest, in order."""
    rows = session.scalars(select(Blob).where(Blob.state.in_(STORED)).order_by(Blob.sha256))
    return {blob.sha256: blob for blob in rows}


def check_head(session: Session, manifest: BackupManifest) -> Iterator[str]:
    """Yield a sentence if the audit log does not hold the row that was its last before the backup."""
    event = session.get(AuditEvent, manifest.serial)
    if manifest.serial and (event is None or event.hash != manifest.hash):
        yield f"The audit log does not hold row {manifest.serial} as it was when the backup began."


def prune(target: Store, blobs: Collection[str], database: str) -> None:
    """Delete from a backup what it no longer names."""
    for path in target.root.glob("database-*"):
        if path.name != database:
            path.unlink()
    for sha256 in target.digests():
        if sha256 not in blobs:
            target.path(sha256).unlink()


def sync_file(path: Path) -> None:
    """Write a file's bytes to disk, so that they survive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an error of a disk into a sentence.

    Raises:
        StorageFull, StorageFailed: The disk failed.
    """
    try:
        yield
    except BreadcrumbError:
        raise
    except OSError as error:
        raise storage_error(error, folder) from error

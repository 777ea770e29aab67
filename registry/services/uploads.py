"""Uploads: announced by digest and size, sent as idempotent parts that are verified one by one, then completed.

Part n is the bytes from n * part_size; parts come in any order, in parallel, again, and from anywhere. A part has a
row only when its bytes are durable in the session's staging file, so a crash at any moment leaves bytes that are
simply sent again. `complete` hashes the whole file; a part that turns out damaged is forgotten and is missing again.
"""

import hashlib
import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session, selectinload

from registry.db.models import Blob, UploadPart, UploadSession, User, now
from registry.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    RangeNotSatisfiable,
    TooLarge,
    TooMany,
)
from registry.services import blobs
from registry.services.actors import Actor
from registry.store import CHUNK, Store

MOST_PARTS = 9000
NOTHING = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class Limits:
    """What one user may announce; sizes in bytes."""

    upload_bytes: int
    open_uploads: int
    open_upload_bytes: int
    part_bytes: int
    lifetime: timedelta


@dataclass(frozen=True)
class Slot:
    """Where a part goes: `size` bytes at `offset` of `path`. `stored` is the digest of what is there already."""

    path: Path
    offset: int
    size: int
    stored: str | None


def staging_path(store: Store, upload_id: uuid.UUID) -> Path:
    """Return the file that holds a session's parts."""
    return store.staging / f"upload-{upload_id.hex}"


def announce(
    session: Session, store: Store, actor: Actor, sha256: str, size: int, limits: Limits
) -> tuple[UploadSession, bool]:
    """Open an upload session, or find the user's own for the same bytes.

    Returns:
        The session with its parts, and whether it is new.

    Raises:
        InvalidRequest: no bytes at all, under a digest that is not theirs.
        TooLarge, TooMany: a limit of the user's, or the room on the disk.
    """
    if size == 0 and sha256 != NOTHING:
        raise InvalidRequest(f"No bytes at all hash to {NOTHING}, not to {sha256}.", field="sha256")
    most = min(limits.upload_bytes, shutil.disk_usage(store.staging).free)
    if size > most:
        raise TooLarge(f"The registry takes at most {most} bytes now, not {size}.", field="size")
    session.get(User, actor.user_id, with_for_update=True)  # one announcement of a user at a time
    mine = select(UploadSession).where(UploadSession.user_id == actor.user_id)
    found = session.scalar(mine.where(UploadSession.sha256 == sha256).options(selectinload(UploadSession.parts)))
    if found is not None and (found.size == size or found.state == "done"):
        found.expires_at = now() + limits.lifetime
        session.flush()
        return found, False
    if found is not None:  # the same digest with another size: one of the two was a mistake
        session.delete(found)
        session.flush()
    upload = UploadSession(
        user_id=actor.user_id,
        sha256=sha256,
        size=size,
        part_size=max(limits.part_bytes, -(-size // MOST_PARTS)),
        expires_at=now() + limits.lifetime,
        parts=[],
    )
    if blobs.readable(session, actor.user_id, sha256):
        upload.state, upload.size = "done", session.get_one(Blob, sha256).size
    else:
        count, total = session.execute(
            select(func.count(), func.coalesce(func.sum(UploadSession.size), 0)).where(
                UploadSession.user_id == actor.user_id, UploadSession.state == "open"
            )
        ).one()
        if count >= limits.open_uploads:
            raise TooMany(f"You have {count} open uploads; complete or cancel some first.")
        if total + size > limits.open_upload_bytes:
            raise TooMany(f"Your open uploads hold {total} bytes; complete or cancel some first.")
    session.add(upload)
    session.flush()
    return upload, True


def find(session: Session, actor: Actor, upload_id: uuid.UUID) -> UploadSession:
    """Return one of the user's own sessions, with its parts.

    Raises:
        NotFound: there is none by that id, or it is somebody else's, or it has expired.
    """
    upload = session.scalar(
        select(UploadSession)
        .where(
            UploadSession.id == upload_id,
            UploadSession.user_id == actor.user_id,
            UploadSession.expires_at > now(),
        )
        .options(selectinload(UploadSession.parts))
    )
    if upload is None:
        raise NotFound("There is no such upload; announce the bytes again.")
    return upload


def missing(upload: UploadSession) -> list[int]:
    """Return the numbers of the parts that are still to come."""
    if upload.state == "done":
        return []
    there = {part.number for part in upload.parts}
    return [number for number in range(upload.part_count) if number not in there]


def slot(upload: UploadSession, store: Store, number: int, length: int) -> Slot:
    """Say where a part goes, before a byte of it is read.

    Raises:
        Conflict: the upload is complete.
        RangeNotSatisfiable: there is no such part.
        TooLarge, InvalidRequest: the length is not the part's.
    """
    if upload.state == "done":
        raise Conflict("This upload is complete; it takes no more parts.")
    if not 0 <= number < upload.part_count:
        raise RangeNotSatisfiable(f"Parts are numbered 0 to {upload.part_count - 1}; there is no part {number}.")
    offset = number * upload.part_size
    size = min(upload.part_size, upload.size - offset)
    if length > size:
        raise TooLarge(f"Part {number} has {size} bytes, not {length}.", field="Content-Length")
    if length < size:
        raise InvalidRequest(f"Part {number} has {size} bytes, not {length}.", field="Content-Length")
    stored = next((part.sha256 for part in upload.parts if part.number == number), None)
    return Slot(staging_path(store, upload.id), offset, size, stored)


def open_staging(store: Store, place: Slot) -> int:
    """Open (and if need be create) a session's staging file; return the file descriptor."""
    with store.writing("an upload"):
        return os.open(place.path, os.O_RDWR | os.O_CREAT, 0o600)


def record_part(
    session: Session,
    actor: Actor,
    upload_id: uuid.UUID,
    number: int,
    size: int,
    sha256: str,
    lifetime: timedelta,
) -> UploadPart:
    """Acknowledge a part whose bytes are durable."""
    upload = find(session, actor, upload_id)
    session.refresh(upload, ["state"], with_for_update=True)
    if upload.state == "done":
        raise Conflict("This upload is complete; it takes no more parts.")
    part = session.merge(UploadPart(session_id=upload_id, number=number, size=size, sha256=sha256))
    upload.expires_at = now() + lifetime
    session.flush()
    return part


def verify(upload: UploadSession, store: Store) -> list[int]:
    """Hash the staged bytes; return the numbers of damaged parts, empty when the whole is right.

    When every part is right but the whole is not, what was announced is wrong: all parts count as damaged.

    Raises:
        Conflict: parts are missing.
    """
    if absent := missing(upload):
        some = ", ".join(map(str, absent[:10]))
        raise Conflict(f"{len(absent)} parts are missing ({some}{' …' if len(absent) > 10 else ''}); send them first.")
    whole, damaged = hashlib.sha256(), []
    digests = {part.number: part.sha256 for part in upload.parts}
    path = staging_path(store, upload.id)
    if upload.size == 0:
        path.touch()
    if not path.exists():  # another request has just completed the upload, or its bytes are lost
        return list(range(upload.part_count))
    with path.open("rb") as file:
        for number in range(upload.part_count):
            part, left = hashlib.sha256(), min(upload.part_size, upload.size - number * upload.part_size)
            while left and (chunk := file.read(min(CHUNK, left))):
                part.update(chunk)
                whole.update(chunk)
                left -= len(chunk)
            if part.hexdigest() != digests[number]:
                damaged.append(number)
    if not damaged and whole.hexdigest() != upload.sha256:
        return list(range(upload.part_count))
    return damaged


def finish(
    session: Session, store: Store, actor: Actor, upload_id: uuid.UUID, damaged: Sequence[int], lifetime: timedelta
) -> UploadSession:
    """Turn verified staged bytes into a blob, or make damaged parts missing again; a second call changes nothing."""
    upload = find(session, actor, upload_id)
    session.refresh(upload, ["state"], with_for_update=True)
    if upload.state == "done":
        return upload
    if damaged:
        upload.parts = [part for part in upload.parts if part.number not in set(damaged)]
    else:
        blobs.register(session, store, staging_path(store, upload.id), upload.sha256)
        upload.state, upload.parts = "done", []
        upload.expires_at = now() + lifetime
    session.flush()
    return upload


def cancel(session: Session, actor: Actor, upload_id: uuid.UUID) -> None:
    """End a session; its staged bytes are cleared away by the next sweep."""
    session.delete(find(session, actor, upload_id))


def sweep(session: Session, store: Store) -> int:
    """Delete expired sessions and staging files without one; return how many files went."""
    session.execute(delete(UploadSession).where(UploadSession.expires_at <= now()))
    staged = list(store.staging.glob("upload-*"))  # before the rows: a file is younger than its session
    alive = {staging_path(store, upload_id).name for upload_id in session.scalars(select(UploadSession.id))}
    stale = [path for path in staged if path.name not in alive]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)

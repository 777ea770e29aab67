"""Uploads: announced by digest and size, sent as idempotent parts that are verified one by one, then completed.

Part n is the bytes from n * part_size; parts may arrive in any order, in parallel and repeatedly. A part has a row only
once the store has its bytes, so after a crash the missing ones are simply sent again. Completing hashes the whole; a
part that turns out to be damaged loses its row and is missing again.
"""

import hashlib
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, selectinload

from registry.db.tables import Namespace, UploadPart, UploadSession, now
from registry.errors import (
    InvalidRequest,
    NotFound,
    RangeNotSatisfiable,
    TooLarge,
    WrongState,
)
from registry.services.blobs import blobs, quotas
from registry.services.people import access
from registry.services.people.actors import Actor, record
from registry.storage.parts import Announced, Slot
from registry.storage.store import Store

MOST_PARTS = 9000
MOST_EXPIRED = 10_000  # sessions that are deleted at a time
EMPTY_SHA256 = hashlib.sha256().hexdigest()


@dataclass(frozen=True)
class UploadLimits:
    """Limits of one upload, and of a namespace without quotas of its own; sizes in bytes."""

    upload_bytes: int
    quota_bytes: int
    quota_uploads: int
    part_bytes: int
    lifetime: timedelta


def announce(
    session: Session,
    store: Store,
    actor: Actor,
    sha256: str,
    size: int,
    limits: UploadLimits,
    namespace: str | None = None,
) -> UploadSession:
    """Open an upload session, or find the user's own for the same bytes; return it with its parts.

    The bytes count against the quota of `namespace` (the user's own if None) until the session ends or expires; an
    expired session is announced as if it were new, but keeps its parts.

    Raises:
        InvalidRequest: The size is 0, and the digest is not that of empty bytes.
        WrongState: The same digest was announced with another size.
        TooLarge, TooMany: The namespace's quota, the limit of an upload or the disk has no room.
    """
    if size == 0 and sha256 != EMPTY_SHA256:
        raise InvalidRequest(f"The sha256 of empty bytes is {EMPTY_SHA256}, not {sha256}.", field="sha256")
    space = access.admit_to_namespace(session, actor, "upload.for", namespace or actor.name)
    # One announcement for a namespace at a time, and its quota as it is now.
    quotas.locked(session, space.id)
    mine = select(UploadSession).where(UploadSession.user_id == actor.user_id, UploadSession.sha256 == sha256)
    upload = session.scalar(mine.options(selectinload(UploadSession.parts)).with_for_update())
    if upload is None:
        upload = UploadSession(
            user_id=actor.user_id, namespace_id=space.id, sha256=sha256, size=size, state="open", parts=[]
        )
        known = blobs.readable(session, actor, [sha256])
        if known and store.holds(sha256, known[sha256]):
            upload.state, upload.size = "done", known[sha256]
        check_limits(session, store, space, upload, limits)
        upload.part_size = max(limits.part_bytes, -(-upload.size // MOST_PARTS))
        session.add(upload)
        after = {"sha256": sha256, "size": upload.size, "state": upload.state}
        record(session, actor, "upload.announce", space.name, after=after)
    else:
        if upload.state == "done" and not store.holds(sha256, blobs.readable(session, actor, [sha256]).get(sha256, -1)):
            upload.state = "open"  # the bytes are lost or damaged; whoever has them may send them again
        elif upload.size != size and upload.state == "open":
            raise WrongState(
                f"These bytes were announced as {upload.size}, not {size}; cancel {upload.id} to start over."
            )
        if upload.expires_at <= now():
            check_limits(session, store, space, upload, limits)
            upload.namespace_id = space.id
    upload.expires_at = now() + limits.lifetime
    session.flush()
    return upload


def check_limits(session: Session, store: Store, space: Namespace, upload: UploadSession, limits: UploadLimits) -> None:
    """Refuse an announcement that exceeds a limit; bytes count from their announcement on."""
    is_open = upload.state == "open"
    most = min(limits.upload_bytes, store.capacity())
    if is_open and upload.size > most:
        raise TooLarge(f"The registry takes at most {most} bytes now, not {upload.size}.", field="size")
    used = quotas.usage(session, space, limits.quota_bytes, limits.quota_uploads)
    if is_open or not quotas.counts_against(session, space, upload.sha256):
        quotas.require_room(space, used, upload.size, is_open=is_open)


def find(
    session: Session, actor: Actor | None, upload_id: uuid.UUID, *, parts: bool = True, lock: bool = False
) -> UploadSession:
    """Return one of the user's own sessions, with its parts unless `parts` is false.

    Without a user it is anybody's: who knows the id may send the bytes that were announced, and no others.

    Raises:
        NotFound: No such session exists, it belongs to another user, or it has expired.
    """
    query = select(UploadSession).where(UploadSession.id == upload_id, UploadSession.expires_at > now())
    if actor is not None:
        query = query.where(UploadSession.user_id == actor.user_id)
    query = query.options(selectinload(UploadSession.parts)) if parts else query
    upload = session.scalar(query.with_for_update() if lock else query)
    if upload is None:
        raise NotFound("There is no such upload; announce the bytes again.")
    return upload


def missing_parts(upload: UploadSession) -> list[int]:
    """Return the numbers of the parts that are not stored yet."""
    if upload.state == "done":
        return []
    stored = {part.number for part in upload.parts}
    return [number for number in range(upload.part_count) if number not in stored]


def slot(
    session: Session, store: Store, actor: Actor | None, upload_id: uuid.UUID, number: int, length: int | None
) -> Slot:
    """Return where a part is to be written, before any of it is read; its length may be unknown.

    Raises:
        NotFound: The user has no such session.
        WrongState: The upload is complete.
        RangeNotSatisfiable: The upload has no such part.
        TooLarge, InvalidRequest: The length is not that of the part.
    """
    upload = find(session, actor, upload_id, parts=False)
    if upload.state == "done":
        raise WrongState("This upload is complete; it takes no more parts.")
    if not 0 <= number < upload.part_count:
        raise RangeNotSatisfiable(
            f"This upload has no part {number}; its parts are numbered 0 to {upload.part_count - 1}."
        )
    offset = number * upload.part_size
    size = min(upload.part_size, upload.size - offset)
    length = size if length is None else length
    if length > size:
        raise TooLarge(f"Part {number} has {size} bytes, not {length}.", field="Content-Length")
    if length < size:
        raise InvalidRequest(f"Part {number} has {size} bytes, not {length}.", field="Content-Length")
    part = session.get(UploadPart, (upload_id, number))
    stored = part.sha256 if part else None
    return store.parts.slot(upload.id, offset, size, stored)


def record_part(
    session: Session,
    actor: Actor | None,
    upload_id: uuid.UUID,
    number: int,
    size: int,
    sha256: str,
    lifetime: timedelta,
) -> UploadPart:
    """Record a part whose bytes are durable."""
    upload = find(session, actor, upload_id, parts=False, lock=True)
    if upload.state == "done":
        raise WrongState("This upload is complete; it takes no more parts.")
    part = session.get(UploadPart, (upload_id, number))
    if part is not None and part.sha256 != sha256:
        raise WrongState(f"Part {number} was stored with other bytes; cancel the upload to start over.")
    if part is None:
        part = UploadPart(session_id=upload_id, number=number, size=size, sha256=sha256)
        session.add(part)
    upload.expires_at = now() + lifetime
    session.flush()
    return part


def to_complete(upload: UploadSession) -> Announced:
    """Return an upload as the store completes it.

    Raises:
        WrongState: Parts are missing.
    """
    require_parts(upload)
    return Announced(
        upload.id, upload.sha256, upload.size, upload.part_size, {part.number: part.sha256 for part in upload.parts}
    )


def require_parts(upload: UploadSession) -> None:
    """Refuse to complete an upload whose parts are not all here.

    Raises:
        WrongState: Parts are missing.
    """
    if missing := missing_parts(upload):
        some = ", ".join(map(str, missing[:10]))
        raise WrongState(
            f"{len(missing)} parts are missing ({some}{' …' if len(missing) > 10 else ''}); send them first."
        )


def finish(
    session: Session, store: Store, actor: Actor, upload_id: uuid.UUID, damaged: Sequence[int], lifetime: timedelta
) -> UploadSession:
    """Turn verified staged bytes into a blob, or make damaged parts missing again. Does nothing if it is done."""
    upload = find(session, actor, upload_id, lock=True)
    if upload.state == "done":
        return upload
    if damaged:
        upload.parts = [part for part in upload.parts if part.number not in set(damaged)]
    else:
        blobs.register(session, store, store.parts.completed(upload.id), upload.sha256, upload.size)
        upload.state, upload.parts = "done", []
        upload.expires_at = now() + lifetime
        record(session, actor, "upload.complete", actor.name, after={"sha256": upload.sha256, "size": upload.size})
    session.flush()
    return upload


def put(
    session: Session, store: Store, actor: Actor, content: bytes, limits: UploadLimits, namespace: str | None = None
) -> str:
    """Store the bytes of a small file as an upload that is done at once; return their sha256.

    Raises:
        TooLarge, TooMany, StorageFull, StorageFailed: There is no room for them.
    """
    sha256 = hashlib.sha256(content).hexdigest()
    upload = announce(session, store, actor, sha256, len(content), limits, namespace)
    if upload.state == "open":
        with store.staged([content]) as (staged, _, size):
            blobs.register(session, store, staged, sha256, size)
        upload.state, upload.parts = "done", []
        session.flush()
    return sha256


def open_of(session: Session, actor: Actor, digests: Collection[str]) -> list[UploadSession]:
    """Return the user's own sessions for some bytes that are not complete, with their parts."""
    return list(
        session.scalars(
            select(UploadSession)
            .where(
                UploadSession.user_id == actor.user_id,
                UploadSession.sha256.in_(set(digests)),
                UploadSession.state == "open",
                UploadSession.expires_at > now(),
            )
            .options(selectinload(UploadSession.parts))
        )
    )


def cancel(session: Session, store: Store, actor: Actor, upload_id: uuid.UUID) -> None:
    """End a session and delete its staged bytes."""
    upload = find(session, actor, upload_id, lock=True)
    session.delete(upload)
    session.flush()
    record(session, actor, "upload.cancel", actor.name, before={"sha256": upload.sha256, "size": upload.size})
    store.parts.discard(upload_id)  # if the commit fails, the session starts over


def expire(session: Session) -> list[int]:
    """Delete the sessions that have expired, except those that are locked; return their sizes."""
    expired = session.scalars(
        select(UploadSession)
        .where(UploadSession.expires_at <= now())
        .limit(MOST_EXPIRED)
        .with_for_update(skip_locked=True)
    ).all()
    session.execute(delete(UploadSession).where(UploadSession.id.in_([upload.id for upload in expired])))
    return [upload.size for upload in expired]


def find_open(session: Session) -> set[uuid.UUID]:
    """Return the sessions that take parts, expired or not: announced again, they go on."""
    return set(session.scalars(select(UploadSession.id).where(UploadSession.state == "open")))

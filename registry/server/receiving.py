"""Receiving uploads: a part is written where it belongs, hashed on the way, and acknowledged once it is durable."""

import hashlib
import os
import uuid
from functools import partial

import anyio
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from registry import schemas
from registry.db.tables import UploadSession
from registry.errors import DigestMismatch, InvalidRequest, WrongState
from registry.server.edge.context import Context
from registry.services.blobs import uploads
from registry.services.people.actors import Actor
from registry.storage.disk_parts import create_staging, staging
from registry.storage.parts import Slot
from registry.storage.store import Store

BUFFER = 4 * 2**20


async def receive_part(
    request: Request,
    ctx: Context,
    actor: Actor | None,
    upload_id: uuid.UUID,
    number: int,
    length: int | None,
    digest: str | None,
) -> schemas.Part:
    """Receive the body of a request as a part of an upload; the answer means that it is durable.

    Args:
        request: The request.
        ctx: The parts of the app.
        actor: Whose upload it is; None for whoever knows its id.
        upload_id: The upload.
        number: The part's number, from 0.
        length: Its bytes, as announced; None if they are not.
        digest: Its sha256, as announced; None if it is not, and the hash of the whole alone decides.

    Raises:
        NotFound, WrongState, RangeNotSatisfiable, TooLarge, InvalidRequest: As of `uploads.slot`.
        DigestMismatch: The bytes hash to something else.
    """
    place = await run_in_threadpool(find_slot, ctx, actor, upload_id, number, length)
    other = WrongState(f"Part {number} was already sent with other bytes; cancel the upload to start over.")
    if digest is not None and place.stored not in (None, digest):
        raise other
    try:
        received = await receive(request, ctx.store, place)
        if digest is None and place.stored not in (None, received):
            raise other
        if digest not in (None, received):
            raise DigestMismatch(
                f"Part {number} hashes to {received}, not to {digest}; send it again.", field="Content-Digest"
            )
        keep = partial(ctx.store.parts.keep, upload_id, number, place, received)
        await anyio.to_thread.run_sync(keep, limiter=ctx.keeping)
    finally:
        if place.apart:
            place.path.unlink(missing_ok=True)
    return await run_in_threadpool(acknowledge, ctx, actor, upload_id, number, place.size, received)


async def complete(ctx: Context, actor: Actor, upload_id: uuid.UUID) -> UploadSession:
    """Hash a whole upload and store it, a few at a time.

    Raises:
        NotFound, WrongState: There is no such upload, or parts are missing.
        DigestMismatch: The bytes are not those that were announced; damaged parts are missing again.
    """
    return await anyio.to_thread.run_sync(partial(complete_now, ctx, actor, upload_id), limiter=ctx.hashing)


def complete_now(ctx: Context, actor: Actor, upload_id: uuid.UUID) -> UploadSession:
    """Verify and finish an upload, with its staged bytes locked."""
    with ctx.database.read() as session:
        upload = uploads.find(session, actor, upload_id)
    if upload.state == "open":
        announced = uploads.to_complete(upload)
        with ctx.store.parts.completing(announced) as damaged, ctx.database.write() as session:
            upload = uploads.finish(session, ctx.store, actor, upload_id, damaged, ctx.upload_limits.lifetime)
    if upload.state == "open":
        raise DigestMismatch(f"The bytes do not hash to {upload.sha256}; send the missing parts again.", field="sha256")
    return upload


def find_slot(ctx: Context, actor: Actor | None, upload_id: uuid.UUID, number: int, length: int | None) -> Slot:
    """Return where a part is written, in a reading transaction of its own, and create its file."""
    with ctx.database.read() as session:
        place = uploads.slot(session, ctx.store, actor, upload_id, number, length)
    create_staging(ctx.store, place.path)
    return place


async def receive(request: Request, store: Store, place: Slot) -> str:
    """Write a part's bytes to its slot, make them durable, and return their sha256.

    A part that was sent already is only hashed: its acknowledged bytes are not written again.

    Raises:
        InvalidRequest: The body is shorter or longer than the part.
    """
    hasher, at, buffer = hashlib.sha256(), place.offset, bytearray()
    end = place.offset + place.size

    def write(chunk: bytes, offset: int) -> None:
        hasher.update(chunk)
        if place.stored is None:
            with store.writing("an upload"):
                store.require_room(len(chunk), "an upload")
                os.pwrite(staged, chunk, offset)

    def sync() -> None:
        with store.writing("an upload"):
            os.fdatasync(staged)

    with staging(store, place.path) as staged:
        async for chunk in request.stream():
            buffer += chunk
            if at + len(buffer) > end:  # never past the slot, whatever the headers announced
                break
            if len(buffer) >= BUFFER:
                await run_in_threadpool(write, bytes(buffer), at)
                at += len(buffer)
                buffer.clear()
        if at + len(buffer) != end:
            raise InvalidRequest(f"This part has {place.size} bytes, and the body has not.", field="Content-Length")
        await run_in_threadpool(write, bytes(buffer), at)
        await run_in_threadpool(sync)
    return hasher.hexdigest()


def acknowledge(
    ctx: Context, actor: Actor | None, upload_id: uuid.UUID, number: int, length: int, digest: str
) -> schemas.Part:
    """Record a durable part, in a transaction of its own."""
    with ctx.database.write() as session:
        part = uploads.record_part(session, actor, upload_id, number, length, digest, ctx.upload_limits.lifetime)
    return schemas.Part(number=part.number, size=part.size, sha256=part.sha256)

"""Routes of uploads."""

import base64
import binascii
import hashlib
import os
import re
import uuid

import anyio
from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from registry import schemas
from registry.errors import DigestMismatch, InvalidRequest, WrongState
from registry.server.edge.admission import ActorDep, Route, allow
from registry.server.edge.context import Context, ContextDep
from registry.server.errors import RESPONSES
from registry.server.views import uploads as upload_views
from registry.services.blobs import uploads
from registry.services.people.actors import Actor
from registry.storage.store import Store

router = APIRouter(prefix="/api/v1/uploads", tags=["uploads"], route_class=Route, responses=RESPONSES)
CONTENT_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")
BUFFER = 4 * 2**20


@router.post("", status_code=201, responses={200: {"model": schemas.Upload, "description": "Nothing to send"}})
@allow("upload")
def announce(body: schemas.UploadRequest, response: Response, actor: ActorDep, ctx: ContextDep) -> schemas.Upload:
    """Announce an upload by digest and size; the same announcement returns the same open session."""
    with ctx.database.write() as session:
        upload = uploads.announce(session, ctx.store, actor, body.sha256, body.size, ctx.upload_limits, body.namespace)
        response.status_code = 200 if upload.state == "done" else 201
        return upload_views.upload(upload)


@router.get("/{upload_id}")
@allow("upload")
def show(upload_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.Upload:
    """Show an upload session, with the parts that are missing."""
    with ctx.database.read() as session:
        return upload_views.upload(uploads.find(session, actor, upload_id))


@router.put(
    "/{upload_id}/parts/{number}",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
        "parameters": [
            {
                "name": "Content-Digest",
                "in": "header",
                "required": True,
                "description": "RFC 9530, e.g. `sha-256=:<base64>:`",
                "schema": {"type": "string", "pattern": CONTENT_DIGEST.pattern},
            }
        ],
    },
)
@allow("upload")
async def put_part(
    upload_id: uuid.UUID, number: int, request: Request, actor: ActorDep, ctx: ContextDep
) -> schemas.Part:
    """Send part `number`, the bytes from number * part_size; the answer means that they are durable. Safe to repeat."""
    digest, length = announced_part(request)
    place = await run_in_threadpool(find_slot, ctx, actor, upload_id, number, length)
    if place.stored not in (None, digest):
        raise WrongState(f"Part {number} was already sent with other bytes; cancel the upload to start over.")
    received = await receive(request, ctx.store, place)
    if received != digest:
        raise DigestMismatch(
            f"Part {number} hashes to {received}, not to {digest}; send it again.", field="Content-Digest"
        )
    return await run_in_threadpool(acknowledge, ctx, actor, upload_id, number, length, digest)


@router.post("/{upload_id}/complete")
@allow("upload")
async def complete(upload_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.Upload:
    """Hash the whole upload and store it; damaged parts become missing again. Few uploads are hashed at a time."""
    return await anyio.to_thread.run_sync(complete_now, ctx, actor, upload_id, limiter=ctx.hashing)


@router.delete("/{upload_id}", status_code=204)
@allow("upload")
def cancel(upload_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Cancel an upload session and delete its bytes."""
    with ctx.database.write() as session:
        uploads.cancel(session, ctx.store, actor, upload_id)


def complete_now(ctx: Context, actor: Actor, upload_id: uuid.UUID) -> schemas.Upload:
    """Verify and finish an upload, with its staged bytes locked."""
    with ctx.database.read() as session:
        upload = uploads.find(session, actor, upload_id)
    if upload.state == "open":
        path = uploads.staging_path(ctx.store, upload_id)
        uploads.create_staging(ctx.store, path)
        with uploads.staging(ctx.store, path, alone=True):
            damaged = uploads.verify(upload, ctx.store)
            with ctx.database.write() as session:
                upload = uploads.finish(session, ctx.store, actor, upload_id, damaged, ctx.upload_limits.lifetime)
    if upload.state == "open":
        raise DigestMismatch(f"The bytes do not hash to {upload.sha256}; send the missing parts again.", field="sha256")
    return upload_views.upload(upload)


def announced_part(request: Request) -> tuple[str, int]:
    """Return the digest (hex) and the length that the headers of a part announce.

    Raises:
        InvalidRequest: A header is missing or malformed.
    """
    header = CONTENT_DIGEST.fullmatch(request.headers.get("content-digest", ""))
    if header is None:
        raise InvalidRequest(
            "Send the header 'Content-Digest: sha-256=:<base64>:' with a part.", field="Content-Digest"
        )
    length = request.headers.get("content-length", "")
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise InvalidRequest("Send the header 'Content-Length' with a part.", field="Content-Length")
    try:
        return base64.b64decode(header[1], validate=True).hex(), int(length)
    except binascii.Error:
        raise InvalidRequest("The header 'Content-Digest' is not base64.", field="Content-Digest") from None


def find_slot(ctx: Context, actor: Actor, upload_id: uuid.UUID, number: int, length: int) -> uploads.Slot:
    """Return where a part is written, in a reading transaction of its own, and create its file."""
    with ctx.database.read() as session:
        place = uploads.slot(session, ctx.store, actor, upload_id, number, length)
    uploads.create_staging(ctx.store, place.path)
    return place


async def receive(request: Request, store: Store, place: uploads.Slot) -> str:
    """Write a part's bytes to its slot, make them durable, and return their sha256.

    A part that was sent already is only hashed: its acknowledged bytes are not written again.
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

    with uploads.staging(store, place.path) as staged:
        async for chunk in request.stream():
            buffer += chunk
            if at + len(buffer) > end:  # never past the slot, whatever the headers announced
                break
            if len(buffer) >= BUFFER:
                await run_in_threadpool(write, bytes(buffer), at)
                at += len(buffer)
                buffer.clear()
        await run_in_threadpool(write, bytes(buffer[: end - at]), at)
        await run_in_threadpool(sync)
    return hasher.hexdigest()


def acknowledge(
    ctx: Context, actor: Actor, upload_id: uuid.UUID, number: int, length: int, digest: str
) -> schemas.Part:
    """Record a durable part, in a transaction of its own."""
    with ctx.database.write() as session:
        part = uploads.record_part(session, actor, upload_id, number, length, digest, ctx.upload_limits.lifetime)
    return schemas.Part(number=part.number, size=part.size, sha256=part.sha256)

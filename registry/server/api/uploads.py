"""Routes of uploads."""

import base64
import binascii
import re
import uuid

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.errors import InvalidRequest
from registry.server import receiving
from registry.server.edge.admission import ActorDep, Route, allow
from registry.server.edge.context import ContextDep
from registry.server.errors import RESPONSES
from registry.server.views import uploads as upload_views
from registry.services.blobs import uploads

router = APIRouter(prefix="/api/v1/uploads", tags=["uploads"], route_class=Route, responses=RESPONSES)
CONTENT_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{43}=):")


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
    return await receiving.receive_part(request, ctx, actor, upload_id, number, length, digest)


@router.post("/{upload_id}/complete")
@allow("upload")
async def complete(upload_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.Upload:
    """Hash the whole upload and store it; damaged parts become missing again. Few uploads are hashed at a time."""
    return upload_views.upload(await receiving.complete(ctx, actor, upload_id))


@router.delete("/{upload_id}", status_code=204)
@allow("upload")
def cancel(upload_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Cancel an upload session and delete its bytes."""
    with ctx.database.write() as session:
        uploads.cancel(session, ctx.store, actor, upload_id)


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

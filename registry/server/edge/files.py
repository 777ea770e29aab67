"""Files: blobs and files of snapshots, sent from this server's disk, by the proxy in front of it, or redirected.

One byte range, a strong ETag, Repr-Digest (RFC 9530) and immutable caching; downloads of snapshots are counted.
"""

import base64
import re
from collections.abc import Mapping
from contextlib import suppress

from fastapi import Request, Response
from sqlalchemy.exc import DBAPIError

from registry.db.tables import Blob
from registry.errors import PreconditionFailed, RangeNotSatisfiable
from registry.outside.hub import file_url
from registry.server.edge.conditions import read_tags
from registry.server.edge.context import Context
from registry.server.edge.downloads import BlobResponse, name_caller
from registry.services.composing import snapshots
from registry.services.composing.snapshots import File, Snapshot
from registry.services.hub import downloads
from registry.services.people.access import AnyModel
from registry.settings import Settings
from registry.storage.store import damaged

DECIDED_HERE = {"if-match", "if-modified-since", "if-unmodified-since"}
RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")


def send(
    request: Request,
    ctx: Context,
    model: AnyModel,
    snapshot: Snapshot,
    path: str,
    *,
    immutable: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a file of a snapshot.

    Args:
        request: The request, for its Range and conditions.
        ctx: The parts of the app.
        model: The model.
        snapshot: The snapshot that holds the file.
        path: The path of the file in the snapshot.
        immutable: Whether the requested address has these bytes for ever.
        headers: More headers for the answer.

    Raises:
        EntryNotFound: The snapshot has no such file.
        PreconditionFailed, RangeNotSatisfiable, BlobDamaged, TooMany: As for `send_blob`.
    """
    blob = snapshots.find_file(snapshot, path)
    response = send_blob(
        request,
        ctx,
        blob,
        path,
        immutable=immutable,
        cached="public" if model.visibility == "public" else "private",
        location=locate(ctx, model, blob, path),
        headers=headers,
    )
    whole = request.method == "GET" and "range" not in request.headers and response.status_code in (200, 302)
    if whole and downloads.is_counted(snapshot, path):
        with suppress(DBAPIError), ctx.database.write() as session:  # reading must not depend on writing
            downloads.count(session, model.id)
    return response


def send_blob(
    request: Request,
    ctx: Context,
    blob: Blob | File,
    filename: str,
    *,
    immutable: bool,
    cached: str,
    location: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a blob or a range of it, with 304 if the client has it, or with a redirect to it.

    Several ranges, and malformed ones, are answered with the whole (RFC 9110 section 14.2 leaves that free).

    Args:
        request: The request, for its Range and conditions.
        ctx: The parts of the app.
        blob: What is known of the blob.
        filename: The name that the file is saved under.
        immutable: Whether this address has these bytes for ever.
        cached: `public`, or `private` if a shared cache must not serve the blob to others.
        location: An address that serves the blob instead; the answer is then a 302 with the Hub's headers.
        headers: More headers for the answer.

    Raises:
        PreconditionFailed: The client asked for another version than this one.
        RangeNotSatisfiable: The range starts after the end.
        BlobDamaged: The blob is damaged, missing or of another size, and there is no `location` where it is sound.
        TooMany: Too many files are being sent.
    """
    size, etag = blob.size, f'"{blob.sha256}"'
    if location is not None:
        linked = {
            "Location": location,
            "X-Linked-Etag": etag,
            "X-Linked-Size": str(size),
            "Cache-Control": "no-store",
        }
        return Response(status_code=302, headers={**(headers or {}), **linked})
    if blob.damaged_at is not None:
        raise damaged(blob.sha256)
    path = ctx.store.path(blob.sha256)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise damaged(blob.sha256) from None
    if status.st_size != size:
        raise damaged(blob.sha256)
    headers = {
        **(headers or {}),
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(blob.sha256)).decode()}:",
        "Cache-Control": f"{cached}, max-age=31536000, immutable" if immutable else f"{cached}, no-cache",
    }
    if not {etag, "*"} & read_tags(request, "if-match", etag):
        raise PreconditionFailed(f"{filename} is not what If-Match names; ask for it again without.", field="If-Match")
    if {etag, f"W/{etag}", "*"} & read_tags(request, "if-none-match"):
        return Response(status_code=304, headers=headers)
    byte_range = RANGE.fullmatch(request.headers.get("range", ""))
    outdated = request.headers.get("if-range", etag) != etag
    decided = {b"if-range"}  # here, and not once more by starlette
    if byte_range is None or outdated or (byte_range[2] and int(byte_range[2]) < int(byte_range[1])):
        decided.add(b"range")
    elif (byte_range[1] and int(byte_range[1]) >= size) or (byte_range[3] and (int(byte_range[3]) == 0 or size == 0)):
        message = f"{filename} has {size} bytes; the range {byte_range[0]} lies outside."
        raise RangeNotSatisfiable(message, field="Range", size=size)
    agreed = b"range" not in decided or "range" not in request.headers
    request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] not in decided]
    name = filename.rpartition("/")[2]
    response = BlobResponse(
        path, headers=headers, media_type="application/octet-stream", filename=name, stat_result=status
    )
    if agreed and may_hand_over(request, ctx.settings):
        return hand_over(response, f"{ctx.settings.accel}/{path.relative_to(ctx.store.root / 'blobs')}")
    response.gate, response.caller = ctx.gate, name_caller(request)
    if request.method != "HEAD":
        ctx.gate.require_room(response.caller)
    return response


def may_hand_over(request: Request, settings: Settings) -> bool:
    """Return whether a proxy may send a file: one that we trust, and that would decide on nothing.

    nginx does not know our entity tags, so it would answer requests with these conditions otherwise than we do.
    """
    # uvicorn knows no port of a client that a trusted proxy speaks for; one that is connected to us has a port.
    forwarded = request.client is not None and request.client.port == 0
    return bool(settings.accel) and forwarded and request.method == "GET" and not DECIDED_HERE & {*request.headers}


def hand_over(response: BlobResponse, location: str) -> Response:
    """Return an answer without a body that tells nginx to send a file of an internal location in its place."""
    kept = {name: value for name, value in response.headers.items() if name not in ("content-length", "accept-ranges")}
    return Response(headers={**kept, "X-Accel-Redirect": location})


def locate(ctx: Context, model: AnyModel, blob: File, path: str) -> str | None:
    """Return where else a file's bytes are: at the Hub, or for a while in a bucket; None if only on this server."""
    settings = ctx.settings
    if blob.state == "remote" and model.source is not None:
        return file_url(settings.hub_endpoint, model.source, path)
    if ctx.bucket is not None and blob.bucketed_at is not None:
        return ctx.bucket.url(blob.sha256, path, settings.bucket_seconds)
    return None

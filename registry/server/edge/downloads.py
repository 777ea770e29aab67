"""Blobs over HTTP: one byte range, strong ETag, Repr-Digest (RFC 9530), immutable caching, or a redirect."""

import base64
import re
from collections.abc import Mapping

from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from registry.errors import RangeNotSatisfiable, StorageFailed, TooMany
from registry.storage.store import Store

RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")
BUSY_SECONDS = 5


class Gate:
    """A count of the files being sent, and its limit; downloads that begin together may exceed it a little."""

    def __init__(self, most: int) -> None:
        self.most, self.inside = most, 0

    def require_room(self) -> None:
        """Refuse another file if the limit is reached.

        Raises:
            TooMany: The limit is reached. Every client retries after a 429.
        """
        if self.inside >= self.most:
            raise TooMany("The registry is sending too many files; try again in a moment.", retry_after=BUSY_SECONDS)


class BlobResponse(FileResponse):
    """A file in chunks of 1 MiB, counted at the gate while it is sent."""

    chunk_size = 2**20
    gate: Gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        self.gate.inside += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.gate.inside -= 1


def serve(
    request: Request,
    store: Store,
    gate: Gate,
    sha256: str,
    size: int,
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
        store: The store that holds the blob.
        gate: The limit of files sent at a time.
        sha256: The digest of the blob.
        size: The size of the blob in bytes.
        filename: The name that the file is saved under.
        immutable: Whether this address has these bytes for ever.
        cached: `public`, or `private` if a shared cache must not serve the blob to others.
        location: An address that serves the blob instead; the answer is then a 302 with the Hub's headers.
        headers: More headers for the answer.

    Raises:
        RangeNotSatisfiable: The range starts after the end.
        StorageFailed: The file of the blob is missing.
        TooMany: Too many files are being sent.
    """
    etag = f'"{sha256}"'
    if location is not None:
        linked = {"Location": location, "X-Linked-Etag": etag, "X-Linked-Size": str(size), "Cache-Control": "no-store"}
        return Response(status_code=302, headers={**(headers or {}), **linked})
    path = store.path(sha256)
    if not path.is_file():
        raise StorageFailed(
            f"The bytes of blob {sha256} are not on disk; the operator should run `crumb-server check`."
        )
    headers = {
        **(headers or {}),
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        "Cache-Control": f"{cached}, max-age=31536000, immutable" if immutable else f"{cached}, no-cache",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    wanted = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
    if etag in wanted or "*" in wanted:
        return Response(status_code=304, headers=headers)
    byte_range = RANGE.fullmatch(request.headers.get("range", ""))
    outdated = request.headers.get("if-range", etag) != etag
    if byte_range is None or outdated or (byte_range[2] and int(byte_range[2]) < int(byte_range[1])):
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif (byte_range[1] and int(byte_range[1]) >= size) or (byte_range[3] and (int(byte_range[3]) == 0 or size == 0)):
        message = f"{filename} has {size} bytes; the range {byte_range[0]} lies outside."
        raise RangeNotSatisfiable(message, field="Range", size=size)
    if request.method != "HEAD":
        gate.require_room()
    name = filename.rpartition("/")[2]
    response = BlobResponse(path, headers=headers, media_type="application/octet-stream", filename=name)
    response.gate = gate
    return response

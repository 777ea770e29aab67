"""Serving a blob: one byte range, strong ETag, Repr-Digest (RFC 9530), immutable caching; or where else it is."""

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
    """Counts the files that are being sent, and lets in no more than so many, give or take those that begin at once."""

    def __init__(self, most: int) -> None:
        self.most, self.inside = most, 0

    def require_room(self) -> None:
        """Refuse to begin with another file.

        Raises:
            TooMany: there are as many as there may be. A 429 is what every client comes back after.
        """
        if self.inside >= self.most:
            raise TooMany("The registry is sending too many files; come back in a moment.", retry_after=BUSY_SECONDS)


class BlobResponse(FileResponse):
    """A file in chunks of 1 MiB, counted at the gate while it is sent."""

    chunk_size = 2**20
    gate: Gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
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
    """Answer with a blob, or a range of it, or 304 when the client has it, or with where it is.

    Args:
        request: Whose Range and conditions count.
        store: Where the blob is.
        gate: How many are sent at a time.
        sha256: The blob.
        size: Its bytes.
        filename: What it is called.
        immutable: Whether this address has these bytes for ever.
        cached: `public`, or `private` for what a shared cache must not hand to others.
        location: An address that has the bytes in our place; the answer is 302 then, in the words of the Hub.
        headers: What else the answer says.

    Several ranges, and malformed ones, are answered with the whole (RFC 9110 section 14.2 leaves that free).

    Raises:
        RangeNotSatisfiable: the range starts after the end.
        StorageFailed: the blob's file is gone.
        TooMany: too many files are being sent.
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
    found = RANGE.fullmatch(request.headers.get("range", ""))
    outdated = request.headers.get("if-range", etag) != etag
    if found is None or outdated or (found[2] and int(found[2]) < int(found[1])):
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    elif (found[1] and int(found[1]) >= size) or (found[3] and (int(found[3]) == 0 or size == 0)):
        message = f"{filename} has {size} bytes; there is nothing at {found[0]}."
        raise RangeNotSatisfiable(message, field="Range", size=size)
    if request.method != "HEAD":
        gate.require_room()
    name = filename.rpartition("/")[2]
    response = BlobResponse(path, headers=headers, media_type="application/octet-stream", filename=name)
    response.gate = gate
    return response

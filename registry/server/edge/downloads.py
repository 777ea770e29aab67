"""Blobs over HTTP: one byte range, strong ETag, Repr-Digest (RFC 9530), immutable caching, or a redirect."""

import base64
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fastapi import Request, Response
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from registry.errors import PreconditionFailed, RangeNotSatisfiable, TooMany
from registry.server.edge.conditions import read_tags
from registry.server.edge.limits import address_key
from registry.storage.store import Store, damaged

RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")
BUSY_SECONDS = 5


class Gate:
    """A count of the files being sent, its limit, and the share that one caller may have of it.

    Downloads that begin together may exceed a limit a little.

    Args:
        most: The most files sent at a time.
        each: The most files sent at a time to one caller.
    """

    def __init__(self, most: int, each: int) -> None:
        self.most, self.each, self.inside = most, each, 0
        self.shares: Counter[str] = Counter()

    def require_room(self, caller: str) -> None:
        """Refuse another file if a limit is reached.

        Raises:
            TooMany: A limit is reached. Every client retries after a 429.
        """
        if self.shares[caller] >= self.each:
            raise TooMany(
                f"The registry is sending you {self.each} files already; try again when one of them is done.",
                retry_after=BUSY_SECONDS,
            )
        if self.inside >= self.most:
            raise TooMany("The registry is sending too many files; try again in a moment.", retry_after=BUSY_SECONDS)

    @contextmanager
    def sending(self, caller: str) -> Iterator[None]:
        """Count a file as long as it is being sent."""
        self.inside += 1
        self.shares[caller] += 1
        try:
            yield
        finally:
            self.inside -= 1
            self.shares[caller] -= 1
            if not self.shares[caller]:
                del self.shares[caller]


class BlobResponse(FileResponse):
    """A file in chunks, counted at the gate while it is sent. For a client that is slow, two chunks are in memory.

    It has an ETag and no date: what an address leads to can become older, and dates would call that unmodified. Without
    a date, If-Modified-Since and If-Unmodified-Since have to be ignored (RFC 9110 sections 13.1.3 and 13.1.4).
    """

    chunk_size = 2**17
    gate: Gate
    caller: str

    def set_stat_headers(self, stat_result: os.stat_result) -> None:
        """Set the length, and not the date."""
        super().set_stat_headers(stat_result)
        del self.headers["last-modified"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        with self.gate.sending(self.caller):
            await super().__call__(scope, receive, send)


def name_caller(request: Request) -> str:
    """Return whose share of the gate a request takes: its user's, whatever the token, else its address's."""
    actor = request.state.actor
    return f"user {actor.name}" if actor else address_key(request.client and request.client.host)


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
        PreconditionFailed: The client asked for another version than this one.
        RangeNotSatisfiable: The range starts after the end.
        BlobDamaged: The file of the blob is missing, or has another size.
        TooMany: Too many files are being sent.
    """
    etag = f'"{sha256}"'
    if location is not None:
        linked = {"Location": location, "X-Linked-Etag": etag, "X-Linked-Size": str(size), "Cache-Control": "no-store"}
        return Response(status_code=302, headers={**(headers or {}), **linked})
    path = store.path(sha256)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise damaged(sha256) from None
    if status.st_size != size:
        raise damaged(sha256)
    headers = {
        **(headers or {}),
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
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
    request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] not in decided]
    caller = name_caller(request)
    if request.method != "HEAD":
        gate.require_room(caller)
    name = filename.rpartition("/")[2]
    response = BlobResponse(
        path, headers=headers, media_type="application/octet-stream", filename=name, stat_result=status
    )
    response.gate, response.caller = gate, caller
    return response

"""Serving a blob: one byte range, strong ETag, Repr-Digest (RFC 9530), immutable caching."""

import base64
import re

from fastapi import Request, Response
from fastapi.responses import FileResponse

from registry.errors import RangeNotSatisfiable, StorageFailed
from registry.store import Store

RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")


class BlobResponse(FileResponse):
    """A file in chunks of 1 MiB."""

    chunk_size = 2**20


def serve(
    request: Request, store: Store, sha256: str, size: int, filename: str, *, immutable: bool, cached: str
) -> Response:
    """Answer with a blob, or a range of it, or 304 when the client has it.

    `cached` is `public`, or `private` for what a shared cache must not hand to others.

    Several ranges, and malformed ones, are answered with the whole (RFC 9110 section 14.2 leaves that free).

    Raises:
        RangeNotSatisfiable: the range starts after the end.
        StorageFailed: the blob's file is gone.
    """
    path = store.path(sha256)
    if not path.is_file():
        raise StorageFailed(
            f"The bytes of blob {sha256} are not on disk; the operator should run `crumb-server check`."
        )
    etag = f'"{sha256}"'
    headers = {
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
    return BlobResponse(
        path, headers=headers, media_type="application/octet-stream", filename=filename.rpartition("/")[2]
    )

"""What a request asks of a file: all of it, one range, or nothing if it has not changed (RFC 9110, 13 and 14)."""

import base64
import re
from collections.abc import Mapping
from typing import NamedTuple

from fastapi import Request, Response

from registry.db.tables import Blob
from registry.errors import PreconditionFailed, RangeNotSatisfiable
from registry.server.edge.conditions import read_tags
from registry.services.composing.snapshots import File

RANGE = re.compile(r"bytes=(?:([0-9]{1,18})-([0-9]{1,18})?|-([0-9]{1,18}))")


class Asked(NamedTuple):
    """What a request asks of a file: the headers of the answer, and bytes start..stop - 1; None for the whole."""

    headers: dict[str, str]
    span: tuple[int, int] | None


def negotiate(
    request: Request,
    blob: Blob | File,
    filename: str,
    *,
    immutable: bool,
    cached: str,
    headers: Mapping[str, str] | None,
) -> Asked | Response:
    """Return what a request asks of a file, by its Range and conditions, or 304 if the client has it.

    Raises:
        PreconditionFailed, RangeNotSatisfiable: As for `send_blob`.
    """
    size, etag = blob.size, f'"{blob.sha256}"'
    tagged = {
        **(headers or {}),
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(blob.sha256)).decode()}:",
        "Cache-Control": f"{cached}, max-age=31536000, immutable" if immutable else f"{cached}, no-cache",
    }
    if not {etag, "*"} & read_tags(request, "if-match", etag):
        raise PreconditionFailed(f"{filename} is not what If-Match names; ask for it again without.", field="If-Match")
    if {etag, f"W/{etag}", "*"} & read_tags(request, "if-none-match"):
        return Response(status_code=304, headers=tagged)
    byte_range = RANGE.fullmatch(request.headers.get("range", ""))
    if byte_range is None or request.headers.get("if-range", etag) != etag:
        return Asked(tagged, None)
    first, last, suffix = (None if part is None else int(part) for part in byte_range.groups())
    if first is not None and last is not None and last < first:
        return Asked(tagged, None)
    if (first is not None and first >= size) or (suffix is not None and (suffix == 0 or size == 0)):
        message = f"{filename} has {size} bytes; the range {byte_range[0]} lies outside."
        raise RangeNotSatisfiable(message, field="Range", size=size)
    if first is None:
        return Asked(tagged, (max(0, size - (suffix or 0)), size))
    return Asked(tagged, (first, size if last is None else min(size, last + 1)))

"""Request bodies: read up to a limit, and as JSON that every parser reads the same way."""

import json
from typing import Any

from fastapi import Request

from registry.errors import InvalidRequest, TooLarge


async def read_json(request: Request, limit: int) -> None:
    """Read a JSON body of at most `limit` bytes strictly, and leave it where FastAPI looks for it.

    Raises:
        TooLarge: The body is longer than the limit.
        InvalidRequest: The body is not strict JSON (RFC 8259 without duplicate names, NaN or lone surrogates).
    """
    raw = await read_bytes(request, limit)
    if raw:
        check_json(raw)


async def read_bytes(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes; a second call returns the same bytes.

    Raises:
        TooLarge: The body is longer than the limit, whatever its Content-Length.
    """
    if hasattr(request, "_body"):
        return request._body
    announced = request.headers.get("content-length", "0")
    raw = bytearray()
    if not announced.isdecimal() or int(announced) <= limit:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > limit:
                break
    if len(raw) > limit or (announced.isdecimal() and int(announced) > limit):
        raise TooLarge(f"The request body is too large: at most {limit} bytes are accepted.", field="body")
    request._body = bytes(raw)
    return request._body


def check_json(raw: bytes) -> None:
    """Refuse JSON that parsers disagree about.

    Raises:
        InvalidRequest: The bytes are not strict JSON; the message names the reason.
    """

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in members]
        if len(set(names)) != len(names):
            raise ValueError("a name occurs twice in one object")
        return dict(members)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = str(error) if not isinstance(error, UnicodeError) else "it is not UTF-8"
        raise InvalidRequest(f"The body is not strict JSON: {reason}.", field="body") from None

"""Request bodies: read up to a limit, and as JSON that every parser reads the same way.

The event loop reads bytes and nothing else. Parsing and validation cost what a stranger's body makes them cost, so they
run in a few threads of their own, after the names and values of the body have been counted.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from registry.errors import InvalidRequest, TooLarge
from registry.server.edge.context import get_context

MEMBERS = 20_000  # names and values of a body, at every depth; a model of 2,000 files has 10,000
NAMES = 100  # of one object, more than any schema has
Parsed = TypeVar("Parsed")


async def parse_body(request: Request, parse: Callable[[bytes], Parsed]) -> Parsed:
    """Read the body of a request and parse it outside the event loop.

    Args:
        request: The request, admitted; without a user, less is read.
        parse: What makes a value of the bytes.

    Raises:
        TooLarge: The body is longer than the limit.
    """
    ctx = get_context(request)
    limit = ctx.settings.json_bytes if request.state.actor else ctx.settings.anonymous_json_bytes
    raw = await read_bytes(request, limit)
    return await to_thread.run_sync(parse, raw, limiter=ctx.parsing)


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


def validate_json(shape: type[BaseModel], raw: bytes) -> BaseModel | None:
    """Return a JSON body as what a route takes, or None if it is empty; no type is converted to another.

    Raises:
        TooLarge, InvalidRequest: As for `load_json`.
        RequestValidationError: The body is not of that shape; it holds the first error alone.
    """
    if not raw:
        return None
    load_json(raw)
    try:
        return shape.model_validate_json(raw, strict=True)
    except ValidationError as why:
        first = why.errors(include_url=False, include_context=False, include_input=False)[0]
        raise RequestValidationError([{**first, "loc": ("body", *first["loc"])}]) from None


def load_json(raw: bytes) -> Any:
    """Parse JSON, unless it is large or parsers disagree about it.

    Raises:
        TooLarge: The body has too many names and values.
        InvalidRequest: The bytes are not strict JSON (RFC 8259 without duplicate names, NaN or lone surrogates), or an
            object has too many names; the message names the reason.
    """
    if not has_few_members(raw):
        raise TooLarge(f"The request body has more than {MEMBERS} names and values; send less at a time.", field="body")

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(members) > NAMES:
            raise ValueError(f"an object has more than {NAMES} names")
        made = dict(members)
        if len(made) != len(members):
            raise ValueError("a name occurs twice in one object")
        return made

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = str(error) if not isinstance(error, UnicodeError) else "it is not UTF-8"
        raise InvalidRequest(f"The body is not strict JSON: {reason}.", field="body") from None
    return parsed


def has_few_members(raw: bytes) -> bool:
    """Return whether JSON has at most `MEMBERS` names and values, without parsing it.

    Outside strings, each name ends with a colon, and each value but the first of its list or object follows a comma.
    """
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")  # what is left of quotes begins and ends strings
    if bare.count(b'"') > 2 * MEMBERS:
        return False
    outside = b"".join(bare.split(b'"')[::2])
    return sum(outside.count(mark) for mark in (b",", b":", b"[", b"{")) <= MEMBERS

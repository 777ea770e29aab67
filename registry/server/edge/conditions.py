"""Conditions of requests: entity tags of what is read, and answers that say that nothing has changed (RFC 9110, 13)."""

import hashlib

from fastapi import Request, Response

TAGGED = "application/json"


def read_tags(request: Request, header: str, default: str = "") -> set[str]:
    """Return the entity tags in a header."""
    return {tag.strip() for tag in request.headers.get(header, default).split(",")}


def tag(request: Request, response: Response) -> Response:
    """Give a JSON answer to a GET its entity tag, or answer 304 if the client has what it would be sent.

    The answer is made all the same: what this saves is the transfer, and the client's parsing.
    """
    kind, body = response.headers.get("content-type", "").partition(";")[0], getattr(response, "body", None)
    whole = request.method == "GET" and response.status_code == 200 and kind == TAGGED and isinstance(body, bytes)
    if not whole or "etag" in response.headers:
        return response
    etag = f'"{hashlib.sha256(response.body).hexdigest()[:32]}"'
    response.headers["ETag"] = etag
    response.headers.setdefault("Cache-Control", "private, no-cache")
    if {etag, f"W/{etag}", "*"} & read_tags(request, "if-none-match"):
        kept = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return Response(status_code=304, headers=kept, background=response.background)
    return response

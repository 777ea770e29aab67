"""Problems: an answer of 400 or more, or a broken connection, as the error that the registry meant."""

import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from registry.errors import (
    BreadcrumbError,
    Forbidden,
    InvalidRequest,
    NotCompared,
    NotFound,
    RangeNotSatisfiable,
    StorageFull,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    WrongState,
    by_slug,
)

ERROR_BYTES = 64 * 2**10
BODY_REFUSED = (  # a registry says so in a problem document
    "A proxy in front of the registry refuses so long a body: its operator can allow it "
    "(nginx: client_max_body_size 0), or have uploads come in smaller parts (REGISTRY_PART_BYTES)."
)
LOST = "Tell the registry's operator that the file is gone there."
TEXT = 2000  # characters of a server's sentence that are repeated to a person
BY_STATUS: dict[int, type[BreadcrumbError]] = {
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: WrongState,
    410: NotFound,
    413: TooLarge,
    416: RangeNotSatisfiable,
    429: TooMany,
    507: StorageFull,
}


def problem(response: httpx2.Response, url: str) -> BreadcrumbError:
    """Return the error that an answer of 400 or more stands for: by its problem type, else by its status.

    Args:
        response: The answer, unread.
        url: The registry's address, for the message.
    """
    try:
        parsed = json.loads(bounded(response, ERROR_BYTES, url))
    except (ValueError, BreadcrumbError, RecursionError):
        parsed = None
    document: dict[str, Any] = parsed if isinstance(parsed, dict) else {}
    status = response.status_code
    cls = by_slug().get(str(document.get("type", "")).rpartition(":")[2]) or BY_STATUS.get(status)
    if cls is None:
        cls = Unavailable if status >= 500 else InvalidRequest if status >= 400 else BreadcrumbError
    detail = document.get("detail")
    if not isinstance(detail, str) or not detail.strip():
        reason = f"{status} {response.reason_phrase}".strip()
        where = f"The registry at {url}"
        if response.history:  # an address elsewhere may hold a secret
            where = f"{response.url.host}, to which the registry at {url} redirects,"
        path = response.history[0].url.path if response.history else response.url.path
        detail = f"{where} answered {response.request.method} {path} with {reason}."
        if status == 404 and response.history:
            detail += f" {LOST}"
        if status == 413:
            detail += f" {BODY_REFUSED}"
    request_id = document.get("instance")
    if status >= 500 and isinstance(request_id, str) and request_id:
        detail = f"{detail} (request {request_id})"
    field, job = document.get("field"), document.get("job")
    error = cls(_plain(detail), field=_plain(field) if isinstance(field, str) else None)
    if isinstance(error, NotCompared) and isinstance(job, str):
        error.job = _plain(job)
    return error


def no_answer(why: Exception, url: str) -> Unavailable:
    """Return the error for a connection that could not be made, or broke off."""
    if isinstance(why, httpx2.ConnectTimeout | httpx2.ConnectError):
        reason = _plain(str(why)) or "no connection"
        return Unavailable(f"No registry answers at {url}: {reason}. Is it running, and is the address right?")
    if isinstance(why, httpx2.TimeoutException):
        return Unavailable(
            f"The registry at {url} did not answer in time; run the command again, it resumes where it stopped."
        )
    reason = _plain(str(why)) or type(why).__name__
    return Unavailable(
        f"The connection to {url} broke off ({reason}); run the command again, it resumes where it stopped."
    )


def unsupported(why: httpx2.UnsupportedProtocol, url: str) -> Unavailable:
    """Return the error for an address that is not http or https: the registry's own, or one that it redirects to."""
    target = why.request.url
    if url.startswith(("http://", "https://")):
        scheme = _plain(target.scheme)[:20]
        return Unavailable(
            f"The registry at {url} redirects to a {scheme}: address, which is never followed; tell its operator."
        )
    return Unavailable(f"{url} is not an http or https address.")


def redirected(response: httpx2.Response, url: str) -> Unavailable:
    """Return the error for a call that the registry sends elsewhere, naming no more than scheme and host."""
    try:
        # The path and query of where a call is sent may hold a secret, and are no address to log in to.
        target = response.url.join(response.headers.get("location", ""))
        origin = _plain(f"{target.scheme}://{target.netloc.decode('ascii', 'replace')}")
    except httpx2.InvalidURL:
        origin = "none"
    return Unavailable(
        f"The registry at {url} sends {response.request.method} calls elsewhere; log in to the address it names: "
        f"{origin}"
    )


def bounded(response: httpx2.Response, limit: int, url: str) -> bytes:
    """Return the body of an answer.

    Raises:
        TooLarge: The body has more than `limit` bytes.
    """
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > limit:
            raise TooLarge(f"The registry at {url} answers with more than {limit} bytes where a short answer is due.")
        parts.append(part)
    return b"".join(parts)


def retry_after(response: httpx2.Response) -> float | None:
    """Return the seconds of a Retry-After header, or None."""
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _plain(text: str) -> str:
    # A server's words reach a terminal: no escape sequences, no line breaks, no endless text.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:TEXT]

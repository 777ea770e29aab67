"""Sends one call to a registry, again where that is safe, and raises the error that the registry meant.

Every call of the API may be repeated: parts and downloads by nature, the POSTs because asking twice for the same
thing answers with the same thing. So a broken connection, 429, 502, 503 and 504 are all tried again.
"""

import base64
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any

import httpx2

from client.machine.config import clean_url
from registry.errors import (
    BreadcrumbError,
    Forbidden,
    InvalidRequest,
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

ANSWER_BYTES = 64 * 2**20  # largest JSON answer believed; file bytes are bounded by their announced size instead
ERROR_BYTES = 64 * 2**10
TEXT = 2000  # characters of a server's sentence that are repeated to a person
MOST_HOPS = 5  # redirects of one call
LONGEST_WAIT = 60.0  # seconds; a Retry-After beyond this is not waited for
RETRIED = frozenset({429, 502, 503, 504})
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

Body = Callable[[], Iterator[bytes]]


class Connection:
    """One registry's address, the token for it, and a pool of connections shared by threads.

    Args:
        url: Where the registry is, for example `https://crumbs.example.org`.
        token: Sent to that host only, never logged.
        attempts: How often one call is tried in all.
        timeout: Seconds to wait for a connection, and for the next bytes.
    """

    def __init__(self, url: str, token: str | None = None, *, attempts: int = 8, timeout: float = 60.0) -> None:
        self.url = clean_url(url)
        self.attempts = max(1, attempts)
        self.answered = False  # once something answered, a refused connection is a restart worth waiting for
        headers = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
        if token:
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                raise Unauthenticated("The token holds characters that no token has; log in again with `crumb login`.")
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx2.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=min(timeout, 10.0)),
            limits=httpx2.Limits(max_connections=16),
            max_redirects=MOST_HOPS,
            event_hooks={"request": [self._before]},
        )

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def _before(self, request: httpx2.Request) -> None:
        """Keep what is for the registry from where it redirects to: the token, and what a file is called there.

        Another host has its own ETag for the same bytes, and would send all of them for ours; they are verified here.
        """
        if not self._is_ours(request.url):
            for name in ("Authorization", "If-Range"):
                request.headers.pop(name, None)

    def _is_ours(self, url: httpx2.URL) -> bool:
        own = self._client.base_url
        return (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)

    def json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Any = None,
        timeout: float | None = None,
    ) -> bytes:
        """Send a call and return the JSON bytes of its answer; empty for 204. `timeout` is for slow answers."""
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {"Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/json"
        query = {name: value for name, value in (params or {}).items() if value is not None}
        bodies = None if content is None else lambda: iter([content])
        if content is not None:
            headers["Content-Length"] = str(len(content))
        return self._answer(method, path, headers=headers, params=query, body=bodies, timeout=timeout)

    def put(self, path: str, body: Body, size: int, headers: Mapping[str, str], stop: Event | None = None) -> bytes:
        """PUT `size` bytes and return the JSON bytes of the answer; `body` is called once per attempt."""
        return self._answer("PUT", path, stop, headers={**headers, "Content-Length": str(size)}, body=body)

    def _answer(self, method: str, path: str, stop: Event | None = None, **how: Any) -> bytes:
        attempt = 0
        while True:
            attempt += 1
            try:
                with self.stream(method, path, **how) as response:
                    return _bounded(response, ANSWER_BYTES, self.url)
            except Again as again:
                self.wait(again, attempt, stop)

    def wait(self, again: "Again", attempt: int, stop: Event | None = None) -> None:
        """Sleep before the next attempt, or give up and raise the error of attempt number `attempt`."""
        limit = min(self.attempts, 2) if again.refused and not self.answered else self.attempts
        delay = again.after if again.after is not None else min(10.0, 0.2 * 2 ** (attempt - 1))
        if attempt >= limit or delay > LONGEST_WAIT:
            if again.refused and self.answered:
                raise Unavailable(
                    f"The registry at {self.url} answers no more; run the command again, it goes on where it was."
                ) from again.__cause__
            raise again.error from again.__cause__
        if again.after is None:
            delay *= random.uniform(0.8, 1.2)  # noqa: S311
        if stop is None:
            time.sleep(delay)
        elif stop.wait(delay):
            raise Stopped

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        body: Body | None = None,
        timeout: float | None = None,
    ) -> Iterator[httpx2.Response]:
        """Send a call once and yield its answer, unread.

        Raises:
            Again: The call broke off, or the registry asks for another try.
            BreadcrumbError: What the registry answered.
        """
        content = None if body is None else body()
        patience = self._client.timeout if timeout is None else httpx2.Timeout(timeout, connect=10.0)
        request = self._client.build_request(
            method, path, headers=headers, params=params or None, content=content, timeout=patience
        )
        try:
            # Only reads are redirected: a file may be at a Hub, or in a bucket.
            response = self._client.send(request, stream=True, follow_redirects=method in ("GET", "HEAD"))
            try:
                self.answered = True
                if response.is_redirect:
                    raise Unavailable(
                        f"The registry at {self.url} sends {method} calls elsewhere; "
                        f"log in to the address it names: {_origin(response)}"
                    )
                if response.status_code >= 400:
                    error = problem(response, self.url)
                    if response.status_code in RETRIED:
                        raise Again(error, after=_retry_after(response))
                    raise error
                yield response
            finally:
                response.close()
        except httpx2.TooManyRedirects as why:
            raise Unavailable(f"The registry at {self.url} redirects in a circle.") from why
        except httpx2.UnsupportedProtocol as why:
            raise Unavailable(f"{self.url} is not an http or https address.") from why
        except (httpx2.TransportError, httpx2.DecodingError) as why:
            refused = isinstance(why, httpx2.ConnectError)
            raise Again(Unavailable(_why_not(self.url, why)), refused=refused) from why


class Again(Exception):
    """One attempt failed in a way that another may not; `error` is what to raise when it is given up."""

    def __init__(self, error: BreadcrumbError, *, after: float | None = None, refused: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after
        self.refused = refused


class Stopped(Exception):
    """Work in another thread was asked to stop."""


def check_stop(stop: Event | None) -> None:
    """Raise Stopped when asked to."""
    if stop is not None and stop.is_set():
        raise Stopped


def user_agent() -> str:
    """Name this client, its version and Python's."""
    import platform

    from registry import version

    return f"crumb/{version()} python/{platform.python_version()} {platform.system().lower()}"


def problem(response: httpx2.Response, url: str) -> BreadcrumbError:
    """Return the error that an answer of 400 or more stands for: by its problem type, else by its status."""
    try:
        found = json.loads(_bounded(response, ERROR_BYTES, url))
    except (ValueError, BreadcrumbError, RecursionError):
        found = None
    document: dict[str, Any] = found if isinstance(found, dict) else {}
    status = response.status_code
    cls = by_slug().get(str(document.get("type", "")).rpartition(":")[2]) or BY_STATUS.get(status)
    if cls is None:
        cls = Unavailable if status >= 500 else InvalidRequest if status >= 400 else BreadcrumbError
    detail = document.get("detail")
    if not isinstance(detail, str) or not detail.strip():
        reason = f"{status} {response.reason_phrase}".strip()
        where = f"The registry at {url}"
        if response.history:  # an address elsewhere may hold a secret
            where = f"{response.url.host}, where the registry at {url} has it,"
        path = response.history[0].url.path if response.history else response.url.path
        detail = f"{where} answered {response.request.method} {path} with {reason}."
    request_id = document.get("instance")
    if status >= 500 and isinstance(request_id, str) and request_id:
        detail = f"{detail} (request {request_id})"
    field = document.get("field")
    return cls(_plain(detail), field=_plain(field) if isinstance(field, str) else None)


def _bounded(response: httpx2.Response, limit: int, url: str) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > limit:
            raise TooLarge(f"The registry at {url} answers with more than {limit} bytes where a short answer is due.")
        parts.append(part)
    return b"".join(parts)


def _retry_after(response: httpx2.Response) -> float | None:
    text = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _why_not(url: str, why: Exception) -> str:
    if isinstance(why, httpx2.ConnectTimeout | httpx2.ConnectError):
        reason = _plain(str(why)) or "no connection"
        return f"No registry answers at {url}: {reason}. Is it running, and is the address right?"
    if isinstance(why, httpx2.TimeoutException):
        return f"The registry at {url} did not answer in time; run the command again, it goes on where it was."
    reason = _plain(str(why)) or type(why).__name__
    return f"The connection to {url} broke off ({reason}); run the command again, it goes on where it was."


def _origin(response: httpx2.Response) -> str:
    # The path and query of where a call is sent may hold a secret, and are no address to log in to.
    try:
        url = response.url.join(response.headers.get("location", ""))
    except httpx2.InvalidURL:
        return "none"
    return _plain(f"{url.scheme}://{url.netloc.decode('ascii', 'replace')}")


def _plain(text: str) -> str:
    # A server's words reach a terminal: no escape sequences, no lines, no end.
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:TEXT]


def content_digest(digest: bytes) -> str:
    """Return the value of a Content-Digest header (RFC 9530) for a sha256 of 32 bytes."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"

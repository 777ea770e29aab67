"""HTTP: sends one call to a registry, again where that is safe, and raises the error that the registry meant.

Every call of the API may be repeated: parts and downloads by nature, the POSTs because the same request again gives
the same answer. So a broken connection, 429, 502, 503 and 504 are all tried again.

The logger `client.api.http` has a debug line for each call and each retry. No line holds a token, a query string, or
more of an address elsewhere than its host: signed addresses of buckets are secrets.
"""

import base64
import json
import logging
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from threading import Event
from typing import Any

import httpx2

from client.api.problems import bounded, no_answer, problem, redirected, retry_after, unsupported
from client.machine.config import clean_url
from registry.errors import BreadcrumbError, Unauthenticated, Unavailable
from registry.files.progress import Meter

ANSWER_BYTES = 128 * 2**20  # largest JSON answer believed; file bytes are bounded by their announced size instead
MOST_HOPS = 5  # redirects of one call
LONGEST_WAIT = 60.0  # seconds; a longer Retry-After is not waited for
RETRIED = frozenset({429, 502, 503, 504})

Body = Callable[[], Iterator[bytes]]
logger = logging.getLogger(__name__)


@cache
def _trusted(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """Return the certificates that the environment has us trust; reading them takes tens of milliseconds."""
    return httpx2.create_ssl_context()


class Connection:
    """One registry's address, the token for it, and a pool of connections shared by threads.

    Args:
        url: The registry's address, for example `https://crumbs.example.org`.
        token: Sent to that host only, never logged.
        attempts: How often one call is tried in all.
        timeout: Seconds to wait for a connection, and for the next bytes.

    Attributes:
        received: Counts the bytes of files that came.
    """

    def __init__(self, url: str, token: str | None = None, *, attempts: int = 8, timeout: float = 60.0) -> None:
        self.url = clean_url(url)
        self.attempts = max(1, attempts)
        self.received = Meter(0, None)
        self.answered = False  # once something answered, a refused connection is a restart worth waiting for
        headers = {"User-Agent": user_agent(), "Accept-Encoding": "identity"}
        if token:
            if not re.fullmatch(r"[\x21-\x7e]+", token):
                raise Unauthenticated("The token holds characters that no token has; log in again with `crumb login`.")
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx2.Client(
            base_url=self.url,
            verify=_trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")),
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
        """Keep from other hosts what is for the registry alone: the token, and its name for a file's bytes.

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
                with self.stream(method, path, attempt=attempt, **how) as response:
                    return bounded(response, ANSWER_BYTES, self.url)
            except Again as again:
                self.wait(again, attempt, stop)

    def wait(self, again: "Again", attempt: int, stop: Event | None = None) -> None:
        """Sleep before the next attempt, or give up.

        Args:
            again: Why another attempt is due.
            attempt: Number of the attempt that failed, from 1.
            stop: Ends the wait when set.

        Raises:
            BreadcrumbError: Attempts are used up, or the registry asks for too long a wait.
            Stopped: `stop` was set.
        """
        limit = min(self.attempts, 2) if again.refused and not self.answered else self.attempts
        delay = again.after if again.after is not None else min(10.0, 0.2 * 2 ** (attempt - 1))
        if attempt >= limit or delay > LONGEST_WAIT:
            if again.refused and self.answered:
                raise Unavailable(
                    f"The registry at {self.url} answers no more; run the command again, it resumes where it stopped."
                ) from again.__cause__
            raise again.error from again.__cause__
        if again.after is None:
            delay *= random.uniform(0.8, 1.2)  # noqa: S311
        logger.debug("attempt %d of %d failed: %s; waiting %.2f s", attempt, limit, again.reason, delay)
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
        attempt: int = 1,
    ) -> Iterator[httpx2.Response]:
        """Send a call once and yield its answer, unread.

        Args:
            method: Of HTTP.
            path: From the root of the registry.
            headers: Beside those of every call.
            params: Of the query.
            body: Yields the bytes to send.
            timeout: Seconds to wait for the answer, in place of the connection's.
            attempt: Number of this attempt, for the log.

        Raises:
            Again: The call broke off, or the registry asks for another try.
            BreadcrumbError: What the registry answered.
        """
        content = None if body is None else body()
        patience = self._client.timeout if timeout is None else httpx2.Timeout(timeout, connect=10.0)
        request = self._client.build_request(
            method, path, headers=headers, params=params or None, content=content, timeout=patience
        )
        start = time.monotonic()
        try:
            # Only reads are redirected: a file may be at a Hub, or in a bucket.
            response = self._client.send(request, stream=True, follow_redirects=method in ("GET", "HEAD"))
            try:
                self.answered = True
                _log(request, response, time.monotonic() - start, attempt)
                if response.is_redirect:
                    raise redirected(response, self.url)
                if response.status_code >= 400:
                    error = problem(response, self.url)
                    if response.status_code in RETRIED:
                        raise Again(error, f"status {response.status_code}", after=retry_after(response))
                    raise error
                yield response
            finally:
                response.close()
        except httpx2.TooManyRedirects as why:
            raise Unavailable(f"The registry at {self.url} redirects in a circle.") from why
        except httpx2.UnsupportedProtocol as why:
            raise unsupported(why, self.url) from why
        except (httpx2.TransportError, httpx2.DecodingError) as why:
            reason, seconds = type(why).__name__, time.monotonic() - start
            logger.debug("%s %s broke off after %.3f s (%s, attempt %d)", *_called(request), seconds, reason, attempt)
            refused = isinstance(why, httpx2.ConnectError)
            raise Again(no_answer(why, self.url), reason, refused=refused) from why


class Again(Exception):
    """One attempt failed in a way that another may not.

    Args:
        error: Raised when no further attempt is made.
        reason: Why, in a word or two without anything secret, for the log.
        after: Seconds to wait, as the registry asks.
        refused: Whether nothing listens at the address.
    """

    def __init__(
        self, error: BreadcrumbError, reason: str, *, after: float | None = None, refused: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.reason = reason
        self.after = after
        self.refused = refused


class Stopped(Exception):
    """Another thread asked this one to stop."""


def check_stop(stop: Event | None) -> None:
    """Raise Stopped if the event is set."""
    if stop is not None and stop.is_set():
        raise Stopped


def user_agent() -> str:
    """Return the name and version of this client, and Python's."""
    import platform

    from registry import version

    return f"crumb/{version()} python/{platform.python_version()} {platform.system().lower()}"


def content_digest(digest: bytes) -> str:
    """Return the value of a Content-Digest header (RFC 9530) for a sha256 of 32 bytes."""
    return f"sha-256=:{base64.b64encode(digest).decode()}:"


def _log(request: httpx2.Request, response: httpx2.Response, seconds: float, attempt: int) -> None:
    elsewhere = f" from {response.url.host}" if response.history else ""
    logger.debug(
        "%s %s: %d%s in %.3f s (attempt %d)", *_called(request), response.status_code, elsewhere, seconds, attempt
    )


def _called(request: httpx2.Request) -> tuple[str, str]:
    """Return method and path of a call, as sent: without the query, and without characters that a terminal obeys."""
    return request.method, request.url.raw_path.partition(b"?")[0].decode("ascii", "replace")

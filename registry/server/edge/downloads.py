"""Downloads: the files being sent, a limit of them, and the share that each caller has."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import Request
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from registry.errors import TooMany
from registry.server.edge.limits import address_key

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

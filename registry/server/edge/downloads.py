"""Downloads: the files being sent, a limit of them, and the share that each caller has."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from fastapi import Request
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from registry.errors import TooMany
from registry.server.edge.limits import address_key
from registry.server.processes.places import Places

BUSY_SECONDS = 5
SMALL, LARGE = 2**17, 2**20  # bytes of a chunk
QUICK = 0.1  # seconds in which a client that keeps up takes a chunk
PROVEN = 2**22  # bytes after which a client that keeps up gets large chunks: more than the kernel takes for it
FEW = 64  # files being sent at a time up to which chunks may be large; any of these clients may stop to read


class Gate:
    """A limit of the files being sent, by all processes of this server, and the share that one caller may have of it.

    Args:
        places: As many places as files may be sent at a time.
        each: The most files sent at a time to one caller.
    """

    def __init__(self, places: Places, each: int) -> None:
        self.places, self.each = places, each

    def require_room(self, caller: str) -> None:
        """Refuse another file if a limit is reached.

        Raises:
            TooMany: A limit is reached. Every client retries after a 429.
        """
        if self.places.count(caller) >= self.each:
            raise TooMany(
                f"The registry is sending you {self.each} files already; try again when one of them is done.",
                retry_after=BUSY_SECONDS,
            )
        if self.places.count() >= self.places.most:
            raise TooMany("The registry is sending too many files; try again in a moment.", retry_after=BUSY_SECONDS)

    @contextmanager
    def sending(self, caller: str) -> Iterator[None]:
        """Count a file as long as it is being sent.

        Raises:
            TooMany: As for `require_room`, for one that began at the same moment as others.
        """
        with self.places.lock:
            self.require_room(caller)
            self.places.take(caller)
        try:
            yield
        finally:
            self.places.leave(caller)


class BlobResponse(FileResponse):
    """A file in chunks, counted at the gate while it is sent; one chunk of it is in memory.

    Chunks are large, since each costs a turn of a thread, but small for a client that has not kept up so far, which may
    be one of very many who do not read, and for all while very many read.

    It has an ETag and no date: what an address leads to can become older, and dates would call that unmodified. Without
    a date, If-Modified-Since and If-Unmodified-Since have to be ignored (RFC 9110 sections 13.1.3 and 13.1.4).
    """

    chunk_size = SMALL
    gate: Gate
    caller: str

    def set_stat_headers(self, stat_result: os.stat_result) -> None:
        """Set the length, and not the date."""
        self.headers["content-length"] = str(stat_result.st_size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or only its headers."""
        taken = 0  # bytes since the client last did not keep up

        async def send_whole(message: Message) -> None:
            nonlocal taken
            await send(message)
            if message.get("more_body"):
                began = time.monotonic()
                await send({"type": "http.response.body", "body": b"", "more_body": True})  # when the chunk is taken
                taken = taken + len(message["body"]) if time.monotonic() < began + QUICK else 0
                keeps_up = taken >= PROVEN and self.gate.places.count() <= FEW
                self.chunk_size = LARGE if keeps_up else SMALL

        with nullcontext() if scope["method"] == "HEAD" else self.gate.sending(self.caller):
            await super().__call__(scope, receive, send_whole)


def name_caller(request: Request) -> str:
    """Return whose share of the gate a request takes: its user's, whatever the token, else its address's."""
    actor = request.state.actor
    return f"user {actor.name}" if actor else address_key(request.client and request.client.host)

"""Files that are composed while they are sent: the bytes of a composition whose weights are not on disk.

    piece, piece, … ── composed ahead for a client that keeps up ── hashed if the whole file is asked for ──> client
                                                                        └─ wrong: the last piece is never sent

A client that breaks off, or is slow, has no piece composed that it does not take.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from anyio import CancelScope
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from registry.errors import StorageFailed
from registry.files.threads import processors
from registry.server.composers import LARGEST, Composers, Piece, Source
from registry.server.edge.downloads import QUICK, Gate

SMALLEST = 2**18  # bytes of a first piece, and of all pieces for a client that does not keep up
SHARED = 2**20  # most bytes of a piece while many read
MOST_AHEAD = min(processors(), 8)  # pieces that are composed while one is sent
FEW = 8  # readers up to which pieces may be as large as they can


class Mismatch(Exception):
    """A file was composed to other bytes than when its digest was found."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for: bytes start..stop - 1 of a file of `size` bytes that hashes to `sha256`."""

    source: Source
    name: str
    size: int
    sha256: str
    start: int
    stop: int
    ranged: bool  # whether a range was asked for


class ComposedResponse(StreamingResponse):
    """An answer that is composed while it is sent, counted at a gate meanwhile.

    Args:
        wanted: What is asked for.
        composers: Who composes it.
        gate: Where readers are counted.
        caller: Whose share of the gate, and whose turn among the composers, it takes.
        headers: The headers, without those about the length.
        ended: Called in a thread at the end, with the number of bytes that were composed, and whether they were other
            bytes than before (False), or the right ones of a whole file (True); None if that is not known.
    """

    def __init__(
        self,
        wanted: Wanted,
        composers: Composers,
        gate: Gate,
        caller: str,
        headers: Mapping[str, str],
        ended: Callable[[int, bool | None], None],
    ) -> None:
        length, status = wanted.stop - wanted.start, 200
        measured = {"Content-Length": str(length), "Accept-Ranges": "bytes"}
        if wanted.ranged:
            measured["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{wanted.size}"
            status = 206
        super().__init__((), status, {**headers, **measured}, "application/octet-stream")
        self.done = 0
        self.right: bool | None = None
        self.wanted, self.composers, self.gate, self.caller, self.ended = wanted, composers, gate, caller, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file; nothing is sent before the first bytes are there."""
        try:
            with self.gate.sending(self.caller):
                async with aclosing(self.pieces()) as pieces:
                    first = await anext(pieces)
                    self.body_iterator = chain(first, pieces)
                    await super().__call__(scope, receive, send)
        finally:
            with CancelScope(shield=True):  # also when the client has gone
                await run_in_threadpool(self.ended, self.done, self.right)

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Yield the bytes, piece by piece.

        Raises:
            BreadcrumbError: A piece cannot be composed.
            Mismatch: The file would have other bytes; raised in place of its last piece.
        """
        wanted, waiting = self.wanted, deque[asyncio.Future[bytes]]()
        hasher = hashlib.sha256() if wanted.stop - wanted.start == wanted.size else None
        at, length, ahead = wanted.start, SMALLEST, 1
        try:
            while wanted.start + self.done < wanted.stop:
                while at < wanted.stop and len(waiting) < ahead:
                    stop = min(wanted.stop, at + length)
                    piece = Piece(wanted.source, wanted.name, at, stop)
                    waiting.append(asyncio.wrap_future(self.composers.compose(self.caller, piece)))
                    at = stop
                data = await waiting.popleft()
                self.done += len(data)
                if hasher is not None:
                    await run_in_threadpool(hasher.update, data)
                    if self.done == wanted.size:
                        self.right = hasher.hexdigest() == wanted.sha256
                        if not self.right:
                            raise Mismatch(f"{wanted.name} was composed to other bytes than {wanted.sha256}.")
                began = time.monotonic()
                yield data
                yield b""  # when the client has taken it
                quick = time.monotonic() < began + QUICK
                most, many = (LARGEST, 1 + MOST_AHEAD) if self.gate.places.count() <= FEW else (SHARED, 2)
                length, ahead = (min(most, 2 * length), many) if quick else (SMALLEST, 1)
        except StorageFailed:  # what it is composed of is damaged
            self.right = False
            raise
        finally:
            for future in waiting:
                future.cancel()


async def chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the first piece, then the rest."""
    yield first
    async for piece in rest:
        yield piece

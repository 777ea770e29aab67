"""Streams of events: answers that last for minutes, and hold neither a thread nor a transaction while they wait.

A stream ends when there is nothing more to report, after ten minutes (the browser reconnects), when the browser goes
away, and at once when the server is stopped.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from registry.errors import Unavailable
from registry.server.processes.places import Places

LOOK = 0.5  # seconds between two looks at the subject
ALIVE = 15.0  # seconds without an event after which a comment keeps the connection open
LONGEST = 600.0  # seconds that a stream may last
Look = Callable[[], tuple[Iterable[str], bool]]


class Streams:
    """The streams of all processes of a server, their limit, and the signal that ends those of this process.

    Args:
        places: As many places as there may be streams.
    """

    def __init__(self, places: Places) -> None:
        self.places, self.ending = places, False

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.ending or self.places.count() >= self.places.most

    @contextmanager
    def open(self) -> Iterator[None]:
        """Count a stream as long as it is open.

        Raises:
            Unavailable: The limit is reached, for one that began at the same moment as others.
        """
        with self.places.lock:
            if self.full:
                raise Unavailable("Too many pages update themselves just now; reload this one in a moment.")
            self.places.take("")
        try:
            yield
        finally:
            self.places.leave("")

    def end(self) -> None:
        """End all streams, and accept no more."""
        self.ending = True


class EventStream(StreamingResponse):
    """An answer that sends events as they happen.

    Args:
        streams: The streams of the server.
        look: Called in another thread every half second; returns the new events, and whether they were the last.
    """

    def __init__(self, streams: Streams, look: Look) -> None:
        headers = {"X-Accel-Buffering": "no"}  # or a proxy like nginx would hold events back
        super().__init__(follow(streams, look), headers=headers, media_type="text/event-stream")
        self.streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self.streams.open():
            await super().__call__(scope, receive, send)


async def follow(streams: Streams, look: Look) -> AsyncIterator[str]:
    """Yield events until the last one, or until time is up."""
    began = spoke = time.monotonic()
    while not streams.ending and time.monotonic() - began < LONGEST:
        news, over = await run_in_threadpool(look)
        for event in news:
            yield event
            spoke = time.monotonic()
        if over:
            return
        if time.monotonic() - spoke >= ALIVE:
            yield ": still here\n\n"
            spoke = time.monotonic()
        await asyncio.sleep(LOOK)


def event(html: str, name: str | None = None) -> str:
    """Return an event: HTML for the page or, with a name, a signal to its elements."""
    lines = [f"event: {name}"] if name else []
    return "\n".join([*lines, *(f"data: {line}" for line in html.splitlines() or [""])]) + "\n\n"

"""Streams of events: answers that go on for minutes, and hold neither a thread nor a transaction while they wait.

A stream ends when it has nothing more to say, after ten minutes (the browser asks again), when the browser goes away,
and at once when the server is stopped.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

LOOK = 0.5  # seconds between two looks at what is told of
ALIVE = 15.0  # seconds of silence after which a comment says that the stream is alive
LONGEST = 600.0  # seconds that a stream may take


Look = Callable[[], tuple[Iterable[str], bool]]


class Streams:
    """Counts the streams of a process, give or take those that begin at once, and tells them when to end."""

    def __init__(self, most: int) -> None:
        self.most, self.open, self.ending = most, 0, False

    @property
    def full(self) -> bool:
        """Whether there is no room for another."""
        return self.ending or self.open >= self.most

    def end(self) -> None:
        """Have all streams end, and take no more."""
        self.ending = True


class EventStream(StreamingResponse):
    """Events as they come, counted while they are sent.

    Args:
        streams: Where it is counted.
        look: Called in another thread every half second; returns the events to send, none if nothing is new, and
            whether these were the last.
    """

    def __init__(self, streams: Streams, look: Look) -> None:
        headers = {"X-Accel-Buffering": "no"}  # or a proxy like nginx keeps what should be told at once
        super().__init__(follow(streams, look), headers=headers, media_type="text/event-stream")
        self.streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        self.streams.open += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.streams.open -= 1


async def follow(streams: Streams, look: Look) -> AsyncIterator[str]:
    """Yield what is new until there is nothing more to come, or time is up."""
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
    """Write an event: what is put into the page or, with a name, what its elements are told."""
    lines = [f"event: {name}"] if name else []
    return "\n".join([*lines, *(f"data: {line}" for line in html.splitlines() or [""])]) + "\n\n"

"""Streams of events: answers that last for minutes, and hold neither a thread nor a transaction while they wait.

A stream ends when there is nothing more to report, after ten minutes (the browser reconnects), when the browser goes
away, and at once when the server is stopped.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager

from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from registry.server.watching import Changed, Streams

LOOK = 0.5  # seconds after which a job is looked at again, whether or not a change was notified
ALIVE = 15.0  # seconds without an event after which a comment keeps the connection open
LONGEST = 600.0  # seconds that a stream may last
Look = Callable[[], tuple[Iterable[str], bool]]


class EventStream(StreamingResponse):
    """An answer that sends events as they happen.

    Args:
        streams: The streams of the server.
        changes: Says when the subject may have changed.
        look: Called in another thread then; returns the new events, and whether they were the last.
    """

    def __init__(self, streams: Streams, changes: AbstractContextManager[Changed], look: Look) -> None:
        headers = {"X-Accel-Buffering": "no"}  # or a proxy like nginx would hold events back
        super().__init__(follow(streams, changes, look), headers=headers, media_type="text/event-stream")
        self.streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self.streams.open():
            await super().__call__(scope, receive, send)


async def follow(streams: Streams, changes: AbstractContextManager[Changed], look: Look) -> AsyncIterator[str]:
    """Yield events until the last one, or until time is up."""
    began = spoke = time.monotonic()
    with changes as changed:
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
            await changed(LOOK)


def event(html: str, name: str | None = None) -> str:
    """Return an event: HTML for the page or, with a name, a signal to its elements."""
    lines = [f"event: {name}"] if name else []
    return "\n".join([*lines, *(f"data: {line}" for line in html.splitlines() or [""])]) + "\n\n"

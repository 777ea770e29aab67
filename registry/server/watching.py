"""Watching: requests that wait for something to change, and hold neither a thread nor a transaction meanwhile.

They are streams of events and calls with `wait`. There is a bounded number of them, and all end when the server stops.
"""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from registry.db.notifications import Notifications
from registry.errors import Unavailable
from registry.server.processes.places import Places

LOOK = 0.25  # seconds after which a call that waits looks again, whether or not a change was notified
MOST_WAIT = 30  # seconds that a call may ask to wait; proxies give up after a minute
Changed = Callable[[float], Awaitable[None]]
Seen = TypeVar("Seen")


class Streams:
    """The streams and waiting calls of all processes of a server, their limit, and the signal that ends this process's.

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


@contextmanager
def job_changes(notifications: Notifications, job_id: uuid.UUID) -> Iterator[Changed]:
    """Yield a function that waits until a job may have changed since the last call, for so many seconds at most.

    A worker on the same SQLite file in another process notifies nobody here, so look after some seconds in any case.
    """
    loop, news, subject = asyncio.get_running_loop(), asyncio.Event(), str(job_id)

    def listener(about: str) -> None:
        if about == subject:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(news.set)

    async def changed(seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await news.wait()
        news.clear()

    with notifications.listen(listener):
        yield changed


async def await_change(
    streams: Streams,
    changed: Changed,
    look: Callable[[], Awaitable[Seen]],
    is_over: Callable[[Seen], bool],
    wait: float,
) -> Seen:
    """Return what something looks like as soon as that has changed or it is over, or after some seconds.

    Args:
        streams: Where the wait is counted; a call that is one too many is answered at once.
        changed: Of `job_changes`; or a pause, for what nobody is notified of.
        look: Returns what it looks like now.
        is_over: Says whether that is how it ends.
        wait: The most seconds.
    """
    first = found = await look()
    if wait > 0 and not streams.full:
        until = time.monotonic() + wait
        with streams.open():
            while (
                found == first and not is_over(found) and not streams.ending and (left := until - time.monotonic()) > 0
            ):
                await changed(min(LOOK, left))
                found = await look()
    return found

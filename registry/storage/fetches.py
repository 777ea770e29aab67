"""Fetches: copies on their way from a bucket, each brought once by a thread of its own, whoever waits for it.

A job waits as long as it takes, and renews its lease meanwhile. A reader waits for a moment: then it is asked to come
back, the copy comes nevertheless, and the threads that answer others stay free.
"""

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait

from registry.errors import TooMany
from registry.storage.pieces import Beat

MOST_FETCHED = 16  # copies on their way at a time
MOST_FAILED = 64  # errors that are kept for whoever asks next
MOST_WAITING = 8  # readers that wait; of the threads that answer, most stay free
LOOK_SECONDS = 1.0  # after which a job that waits renews its lease
SECONDS_TO_RETRY = 2


class Fetches:
    """The copies that this process fetches.

    Args:
        fetch: Brings the copy of a blob, or raises.
    """

    def __init__(self, fetch: Callable[[str], None]) -> None:
        self.fetch = fetch
        self.lock = threading.Lock()
        self.running: dict[str, Future[None]] = {}
        self.failed: dict[str, BaseException] = {}
        self.places = threading.Semaphore(MOST_WAITING)

    def wait(self, sha256: str, beat: Beat) -> None:
        """Bring a copy, and call `beat` meanwhile; whatever that raises ends the waiting, and not the fetch."""
        while (future := self._begin(sha256)) is None:
            with self.lock:
                others = list(self.running.values())
            wait(others, LOOK_SECONDS, FIRST_COMPLETED)
            beat()
        while not wait([future], LOOK_SECONDS).done:
            beat()
        future.result()

    def wait_briefly(self, sha256: str, seconds: float) -> None:
        """Bring a copy, if that is done soon.

        Raises:
            TooMany: It takes longer, or too many readers wait already.
        """
        slow = TooMany("The bucket is slow to send this file; try again in a moment.", retry_after=SECONDS_TO_RETRY)
        if not self.places.acquire(blocking=False):
            raise slow
        try:
            future = self._begin(sha256)
            if future is None or not wait([future], seconds).done:
                raise slow
            future.result()
        finally:
            self.places.release()

    def ask(self, sha256: str) -> None:
        """Begin to bring a copy, or raise why the last try failed; too many at a time are left for the next time."""
        with self.lock:
            error = self.failed.pop(sha256, None)
        if error is not None:
            raise error
        self._begin(sha256)

    def _begin(self, sha256: str) -> "Future[None] | None":
        """Return the fetch of a copy, which begins if it has not; None if too many are under way."""
        with self.lock:
            future = self.running.get(sha256)
            if future is None and len(self.running) < MOST_FETCHED:
                future = Future()
                threading.Thread(target=self._run, args=(sha256, future), name="fetch", daemon=True).start()
                self.running[sha256] = future  # the thread waits for the lock before it looks for it
            return future

    def _run(self, sha256: str, future: "Future[None]") -> None:
        error: BaseException | None = None
        try:
            self.fetch(sha256)
        except BaseException as why:
            error = why
        with self.lock:
            del self.running[sha256]
            self.failed.pop(sha256, None)
            if error is not None:
                while len(self.failed) >= MOST_FAILED:
                    del self.failed[next(iter(self.failed))]
                self.failed[sha256] = error
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

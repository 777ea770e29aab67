"""Turns: threads that write to SQLite do so in the order in which they came.

SQLite lets only one connection write, and those that wait look again after pauses that grow: under 64 writers, the
unlucky waited for ten seconds while others wrote twenty times.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """A lock that is passed on in order."""

    def __init__(self) -> None:
        self.lock, self.taken = threading.Lock(), False
        self.waiting: deque[threading.Lock] = deque()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for a turn, and hold it."""
        with self.lock:
            ours = threading.Lock() if self.taken else None
            self.taken = True
            if ours is not None:
                ours.acquire()
                self.waiting.append(ours)
        try:
            if ours is not None:
                ours.acquire()  # until whoever is before us releases it
            yield
        finally:
            with self.lock:
                if ours is not None and ours in self.waiting:  # interrupted while waiting
                    self.waiting.remove(ours)
                elif self.waiting:
                    self.waiting.popleft().release()
                else:
                    self.taken = False

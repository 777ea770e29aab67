"""What a process keeps in mind for a while, so that the database is asked and written to less.

Answers that cost much, and that monitoring asks for again and again; and what was sent of compositions.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Source = TypeVar("Source")
Value = TypeVar("Value")
MOST = 10_000  # things that are remembered; those read least recently are forgotten


class Kept(Generic[Source, Value]):
    """A value that is read again once it is some seconds old; callers wait for one reader."""

    def __init__(self, read: Callable[[Source], Value], seconds: float) -> None:
        self.read, self.seconds = read, seconds
        self.lock = threading.Lock()
        self.known: tuple[float, Value] | None = None

    def get(self, source: Source) -> Value:
        """Return the value, read from the source if it is too old."""
        with self.lock:
            if self.known is None or time.monotonic() - self.known[0] >= self.seconds:
                value = self.read(source)
                self.known = time.monotonic(), value
            return self.known[1]


class Readings:
    """Readings since some time.

    Args:
        seconds: For how long a use that was told of stands for those that follow.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._used: OrderedDict[Hashable, float] = OrderedDict()
        self._parts: OrderedDict[Hashable, int] = OrderedDict()

    def use(self, key: Hashable) -> bool:
        """Return whether a use of something is to be told of: the last that was is some time ago."""
        with self._lock:
            last = self._used.get(key)
            if last is not None and time.monotonic() < last + self._seconds:
                return False
            self._used[key] = time.monotonic()
            self._used.move_to_end(key)
            forget(self._used)
            return True

    def add(self, key: Hashable, count: int, size: int) -> bool:
        """Add bytes that were sent of a file; return whether they are as many now as a file of this size has."""
        with self._lock:
            total = self._parts.pop(key, 0) + count
            if total >= size:
                return True
            self._parts[key] = total
            forget(self._parts)
            return False


def forget(known: OrderedDict[Hashable, float] | OrderedDict[Hashable, int]) -> None:
    """Forget the oldest if there are too many."""
    if len(known) > MOST:
        known.popitem(last=False)

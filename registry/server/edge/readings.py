"""Readings: what this process has sent of compositions, so that few requests write to the database that they did."""

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable

MOST = 10_000  # things that are remembered; those read least recently are forgotten


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

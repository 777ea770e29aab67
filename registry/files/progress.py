"""Progress in bytes: a callback, and a meter that threads may share."""

import threading
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class Meter:
    """Counts bytes and calls a progress callback; threads may share a meter.

    Args:
        total: Bytes in all.
        progress: Called with (bytes done, bytes in all), by one thread at a time; None to count only.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes as done; a negative number for bytes that must be done again."""
        with self._lock:
            self.done += count
            if self.progress:
                self.progress(self.done, self.total)

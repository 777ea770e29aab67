"""Progress in bytes: a callback, and a meter that threads may share."""

import threading
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class Meter:
    """Count bytes for a progress callback; threads may share one."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes that are done; a negative number for bytes that must be done again."""
        with self._lock:
            self.done += count
            if self.progress:
                self.progress(self.done, self.total)

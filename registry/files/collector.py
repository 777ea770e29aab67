"""The collector: Python's search for circles of objects, paused while many objects are made that hold none.

The collector looks through all young objects again and again while their number grows: half of the time that a header
of a million entries takes. Objects that hold no circle are freed without it, as soon as nothing refers to them.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Pauses:
    """Counts the pauses of all threads; the collector works again after the last of them."""

    def __init__(self) -> None:
        self._lock, self._count, self._worked = threading.Lock(), 0, False

    def begin(self) -> None:
        with self._lock:
            if self._count == 0:
                self._worked = gc.isenabled()
                gc.disable()
            self._count += 1

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count == 0 and self._worked:
                gc.enable()


_PAUSES = _Pauses()


@contextmanager
def paused_collector() -> Iterator[None]:
    """Pause the collector of this process; threads may do so at the same time."""
    _PAUSES.begin()
    try:
        yield
    finally:
        _PAUSES.end()

"""Answers that are kept for some seconds, since they cost much and monitoring asks again and again."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Source = TypeVar("Source")
Value = TypeVar("Value")


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

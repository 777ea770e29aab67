"""Counts of everything, kept for some seconds: each walks through an index, and monitoring asks again and again."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy.orm import Session

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """A value that is read from the database again once it is some seconds old; callers wait for one reader."""

    def __init__(self, read: Callable[[Session], Value], seconds: float) -> None:
        self.read, self.seconds = read, seconds
        self.lock = threading.Lock()
        self.known: tuple[float, Value] | None = None

    def get(self, session: Session) -> Value:
        """Return the value."""
        with self.lock:
            if self.known is None or time.monotonic() - self.known[0] >= self.seconds:
                value = self.read(session)
                self.known = time.monotonic(), value
            return self.known[1]

"""Locks between the threads of a process and, where there are several, between the processes of a server."""

import fcntl
import threading
from pathlib import Path
from typing import IO


class Lock:
    """A lock that a process lets go of when it dies, and that is held for microseconds only.

    Args:
        path: A file that all processes open; None if there is one process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.threads = threading.Lock()
        self.path = path
        self.file: IO[bytes] | None = None

    def join(self) -> None:
        """Open the file in this process: a descriptor that was inherited would be one holder for all."""
        if self.path is not None:
            self.file = self.path.open("ab")

    def __enter__(self) -> None:
        self.threads.acquire()
        if self.file is not None:
            fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            fcntl.flock(self.file, fcntl.LOCK_UN)
        self.threads.release()

"""One crumb at a time: in a folder, or at an entry of the cache. The lock dies with its process."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.console import Console
from client.transfers import OWN
from registry.breadcrumbs.durable import storage_error

PATIENCE = 1.0  # seconds before a person is told why nothing happens
PAUSE = 0.05


@contextmanager
def locked(folder: Path, console: Console, name: str = "lock") -> Iterator[None]:
    """Hold `<folder>/.crumb/<name>` for this process alone, waiting for whoever holds it."""
    try:
        (folder / OWN).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / OWN / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as why:
        raise storage_error(why, folder) from why
    try:
        start, told = time.monotonic(), False
        while not _take(handle):
            if not told and time.monotonic() - start > PATIENCE:
                console.note(f"Another crumb is working in {folder}; waiting for it.")
                told = True
            time.sleep(PAUSE)
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: without a lock two pulls into one folder waste work, no more
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

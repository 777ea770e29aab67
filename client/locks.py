"""One crumb at a time: in a folder, or at an entry of the cache. The lock dies with its process."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.console import Console
from client.transfers import OWN, take_lock
from registry.files.durable import storage_error

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
        while not take_lock(handle):
            if not told and time.monotonic() - start > PATIENCE:
                console.note(f"Another crumb is working in {folder}; waiting for it.")
                told = True
            time.sleep(PAUSE)
        yield
    finally:
        os.close(handle)

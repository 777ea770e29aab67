"""Locks: one crumb at a time in a folder, or at an entry of the cache. A lock ends with its process."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.machine.folders import make_own
from client.terminal.console import Console
from registry.files.durable import storage_error

PATIENCE = 1.0  # seconds before a person is told why nothing happens
PAUSE = 0.05  # seconds between attempts


@contextmanager
def locked(folder: Path, console: Console, name: str = "lock") -> Iterator[None]:
    """Hold `<folder>/.crumb/<name>` for this process alone, waiting for the process that has it.

    Raises:
        StorageFull: The disk has no room for the lock's file.
        StorageFailed: The lock's file cannot be written.
        WrongState: A link is where `.crumb` must be.
    """
    try:
        handle = os.open(make_own(folder) / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as why:
        raise storage_error(why, folder) from why
    try:
        start, noted = time.monotonic(), False
        while not take_lock(handle):
            if not noted and time.monotonic() - start > PATIENCE:
                console.note(f"Another crumb is working in {folder}; waiting for it.")
                noted = True
            time.sleep(PAUSE)
        yield
    finally:
        os.close(handle)


@contextmanager
def trying(folder: Path, name: str) -> Iterator[bool]:
    """Try to hold `<folder>/.crumb/<name>` without waiting; yield whether this process has it.

    Raises:
        OSError: The lock's file cannot be written.
        WrongState: A link is where `.crumb` must be.
    """
    handle = os.open(make_own(folder) / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        yield take_lock(handle)
    finally:
        os.close(handle)


def take_lock(handle: int) -> bool:
    """Lock an open file for this process alone, without waiting, and return whether that succeeded."""
    try:
        import fcntl
    except ImportError:  # Windows: without a lock two pulls into one folder waste work, no more
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

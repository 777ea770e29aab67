"""What the processes of a test run share: made by the one that asks first, while the others wait for it."""

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.support.in_memory import find_place, remove_stale

FOLDER = "TEST_SHARED_FOLDER"  # the environment variable by which processes that are started find it


def shared_folder() -> Path:
    """Return the folder; the process that asks first makes it, and removes it at its end."""
    if FOLDER not in os.environ:
        if place := find_place():
            remove_stale(place, "shared")
        os.environ[FOLDER] = folder = tempfile.mkdtemp(prefix=f"shared-{os.getpid()}-", dir=place)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(os.environ[FOLDER])


def make_once(name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that whoever asks first has filled.

    Args:
        name: Of the folder.
        make: Fills an empty folder, which has another name meanwhile; what is in there may not know where it lies.
    """
    folder = shared_folder() / name
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            draft = Path(f"{folder}.draft")
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder

"""Known files: what was found by reading files whole, kept in the cache until one of them changes.

    <cache>/known/<key>    what was found; the key is a hash of what the system says of each file

As with git's index, a file counts as unchanged while its device, inode, size, mtime and ctime stay the same. A file
that was changed just before it was read is racy: it may change again without any of these showing that. Of such a file
nothing is kept. Another version of crumb keeps its own, since its rules may be others.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from client.machine.config import cache
from registry import version
from registry.errors import InvalidCheckpoint

if TYPE_CHECKING:
    from registry.breadcrumbs.formats.checkpoint import Checkpoint

SETTLED = 3_000_000_000
"""Nanoseconds after which a change shows in a file's times, on every file system: FAT counts 2 seconds."""

LONGEST = 1000
"""Most characters that are kept for a key."""

MOST = 10_000
"""Most keys that are kept; the oldest are removed."""

State = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime of a file."""


def state_of(found: os.stat_result) -> State:
    """Return the state of a file from what the system says of it."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def recall(kind: str, states: Mapping[str, State]) -> str | None:
    """Return what is known of files in these states; None if nothing is.

    Args:
        kind: What is asked.
        states: The states of the files by what they are called, which matters for the answer.
    """
    try:
        return (_folder() / _key(kind, states)).read_text("ascii")[:LONGEST] or None
    except (OSError, ValueError):
        return None


def remember(kind: str, states: Mapping[str, State], found: str, began: int) -> None:
    """Keep what was found of files, unless one of them is racy; a cache that cannot be written is left alone.

    Args:
        kind, states: As of `recall`; the caller has seen these states before and after the files were read.
        found: What is known of them, in ASCII.
        began: The time at which reading began, in nanoseconds of `time.time_ns`.
    """
    racy = any(max(mtime, ctime) + SETTLED > began for _, _, _, mtime, ctime in states.values())
    if racy or os.name == "nt":  # Windows has no time of change that a program cannot set
        return
    with contextlib.suppress(OSError):
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        _prune(folder)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".")
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(found)
        Path(temporary).replace(folder / _key(kind, states))


@contextlib.contextmanager
def checked_base(base: "Checkpoint", digest: str, anew: bool = False) -> Iterator[bool]:
    """Yield whether a base is known to have this weights digest; if not, the caller checks it inside, and that is kept.

    With `anew` it counts as not known.

    Raises:
        InvalidCheckpoint: A base that was known has changed while it was read.
    """
    states, began = _states(base), now()
    known = not anew and recall("base", states) == digest
    yield known
    if _states(base) == states:
        if not known:
            remember("base", states, digest, began)
    elif known:
        raise InvalidCheckpoint("The base changed while it was read; run the command again.")


def _states(base: "Checkpoint") -> dict[str, State]:
    return {name: state_of(os.fstat(base.file(name).fileno())) for name in base.files}


def now() -> int:
    """Return the time, as `remember` takes it."""
    return time.time_ns()


def _folder() -> Path:
    return cache() / "known"


def _key(kind: str, states: Mapping[str, State]) -> str:
    asked = [version(), kind, sorted(states.items())]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _prune(folder: Path) -> None:
    kept = list(folder.iterdir())
    if len(kept) >= MOST:
        oldest_first = sorted(kept, key=lambda file: file.stat().st_mtime_ns)
        for file in oldest_first[: MOST // 2]:
            file.unlink(missing_ok=True)

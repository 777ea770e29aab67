"""Descriptors: many files open at a time. The limit of the process is raised as far as the system lets it.

soft limit    what a process starts with, often 1,024; it may raise that itself
hard limit    how far; `ulimit -n` and `LimitNOFILE=` set both
"""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import resource

from registry.errors import TooManyFiles

SPARE = 64
"""Descriptors that are left for what else a program opens: databases, sockets, libraries."""


def open_to_read(path: Path) -> BinaryIO:
    """Open a file for reading, without a buffer; errors as of `with_room`."""
    return with_room(lambda: path.open("rb", buffering=0))


def with_room(open_file: Callable[[], BinaryIO]) -> BinaryIO:
    """Open a file, so that a few more can be opened after it.

    Args:
        open_file: Opens it; called again if the limit was in the way and could be raised.

    Raises:
        TooManyFiles: The process may not open that many.
    """
    if sys.platform == "win32":  # which has other limits, and no way to ask for them
        return open_file()
    while True:
        try:
            file = open_file()
        except OSError as why:
            if why.errno != errno.EMFILE:
                raise
            if not raise_limit():
                raise _too_many() from why
            continue
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY or file.fileno() + min(SPARE, soft // 4) < soft or raise_limit():
            return file
        file.close()
        raise _too_many()


def raise_limit() -> bool:
    """Double the number of files that this process may open, as far as the system lets it; say whether it grew."""
    if sys.platform == "win32":
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * soft if hard == resource.RLIM_INFINITY else min(2 * soft, hard)
    if soft == resource.RLIM_INFINITY or wanted <= soft:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # the system has another limit beside it
        return False
    return True


def _too_many() -> TooManyFiles:
    assert sys.platform != "win32"
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return TooManyFiles(
        f"This needs more files open at once than the {soft} that a process may open here. Raise that limit, as by "
        f"`ulimit -n {8 * soft}`, or take fewer patches, or a model in fewer files."
    )

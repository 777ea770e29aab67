"""Durable files, which appear whole or not at all: written beside their place, fsynced, renamed, the folder fsynced."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

from registry.errors import BreadcrumbError, InvalidRequest, StorageFailed, StorageFull
from registry.files.descriptors import with_room


@contextlib.contextmanager
def new_files(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open new files that take their names together, once all of them are written and on disk.

    Args:
        paths: The names that the files take; their folders exist. Files of these names are replaced.

    Yields:
        The files, open for writing and reading, in the order of `paths`. On any error they are removed.

    Raises:
        InvalidRequest: A folder does not exist.
        StorageFull: The disk has no room left.
        StorageFailed: The disk failed in another way.
        TooManyFiles: The process may not open that many.
    """
    temporary: list[Path] = []
    files: list[BinaryIO] = []
    placed: list[Path] = []
    try:
        for path in paths:
            if not path.parent.is_dir():
                raise InvalidRequest(f"The folder {path.parent} does not exist; create it first.")
            beside = path.parent / f".{secrets.token_hex(8)}.tmp"
            temporary.append(beside)
            files.append(with_room(partial(_create, beside)))
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for beside, path in zip(temporary, paths, strict=True):
            new = not path.exists()
            beside.rename(path)
            if new:
                placed.append(path)
        for folder in {path.parent for path in paths}:
            sync_folder(folder)
    except BaseException as problem:
        for file in files:
            with contextlib.suppress(OSError):
                file.close()
        for path in (*temporary, *placed):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if isinstance(problem, OSError) and not isinstance(problem, BreadcrumbError):
            raise storage_error(problem, paths[0].parent) from problem
        raise


def _create(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666), "w+b")


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to disk, so that they survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def storage_error(problem: OSError, folder: Path) -> BreadcrumbError:
    """Return the error for a disk that failed while files were written under a folder."""
    if problem.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageFull(f"There is no room left under {folder}; free some space and try again.")
    return StorageFailed(f"The disk failed while files were written under {folder}: {problem.strerror or problem}.")

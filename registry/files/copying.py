"""Copying bytes between files, by the system's own copy where it has one; reading and writing them at a place."""

import errno
import os
from itertools import pairwise

REFUSALS = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""The errors by which a system says that it has no copy of its own for two files."""

COPY_BYTES = 2**21
"""Bytes that are copied at a time where the system has no copy of its own."""


def copy_range(source: int, target: int, start: int, stop: int, to: int) -> None:
    """Copy bytes start..stop - 1 of a file to byte `to` of another, both given by their descriptors.

    File systems that can share blocks between files (XFS, Btrfs) do so where whole blocks are copied to the same place
    in a block.

    Raises:
        EOFError: The source ends before `stop`.
    """
    block = getattr(os.fstat(target), "st_blksize", 4096)  # Windows does not say
    first, last = -(-start // block) * block, stop // block * block  # of the whole blocks
    cuts = [first, last] if start % block == to % block and first < last else []
    for begin, end in pairwise([start, *cuts, stop]):
        _copy(source, target, begin, end, to + begin - start)


def _copy(source: int, target: int, start: int, stop: int, to: int) -> None:
    while start < stop and hasattr(os, "copy_file_range"):
        try:
            done = os.copy_file_range(source, target, min(stop - start, 2**30), start, to)
        except OSError as refused:
            if refused.errno in REFUSALS:
                break
            raise
        if done == 0:
            break
        start, to = start + done, to + done
    while start < stop:
        block = os.pread(source, min(stop - start, COPY_BYTES), start)
        if not block:
            raise EOFError("The file to copy from became shorter.")
        write_at(target, memoryview(block), to)
        start, to = start + len(block), to + len(block)


def read_at(file: int, view: memoryview, at: int) -> None:
    """Fill a whole view from a file, given by its descriptor, from byte `at` on.

    Raises:
        EOFError: The file ends before the view is full.
    """
    while view:
        done = os.preadv(file, [view], at)
        if done == 0:
            raise EOFError("The file ends before the bytes that were to be read.")
        view, at = view[done:], at + done


def write_at(file: int, view: memoryview, at: int) -> None:
    """Write all bytes to a file, given by its descriptor, from byte `at` on."""
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


class Appender:
    """Appends bytes to a file from an offset on."""

    def __init__(self, file: int, at: int) -> None:
        self.file, self.at = file, at

    def __call__(self, view: memoryview) -> None:
        """Append bytes."""
        write_at(self.file, view, self.at)
        self.at += len(view)

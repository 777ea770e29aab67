"""Hashing: the sha256 of files, of parts of files, and of several streams of bytes at a time."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from registry.files.progress import Meter, Progress
from registry.files.threads import call_each

BLOCK = 2**18
"""Bytes read and hashed at a time."""

Reader = Callable[[], Iterator[Any]]
"""Begins to read a stream: it yields buffers, each of which stays as it is until the next is asked for."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes start..stop - 1 of a file, which hash to `sha256`."""

    start: int
    stop: int
    sha256: str


def find_changed(file: int, extents: Sequence[Extent]) -> list[Extent]:
    """Return the extents of which a file, given by its descriptor, does not have the bytes; a hole reads as zeros."""

    def read(extent: Extent) -> Iterator[bytes]:
        for at in range(extent.start, extent.stop, BLOCK):
            yield os.pread(file, min(BLOCK, extent.stop - at), at)

    digests = hash_each([partial(read, extent) for extent in extents], lambda count: None)
    return [extent for extent, digest in zip(extents, digests, strict=True) if digest != extent.sha256]


def find_missing(file: int, extents: Sequence[Extent]) -> list[Extent]:
    """Return the extents that a file, given by its descriptor, was not given yet, or of which it has other bytes."""
    written = [extent for extent in extents if not _is_hole(file, extent)]
    here = set(written) - set(find_changed(file, written))
    return [extent for extent in extents if extent not in here]


def _is_hole(file: int, extent: Extent) -> bool:
    """Say whether nothing was written to an extent of a file, where the file system knows that."""
    try:
        return os.lseek(file, extent.start, os.SEEK_DATA) >= extent.stop
    except OSError as error:
        return error.errno == errno.ENXIO  # nothing was written from there on


class Hash(Protocol):
    """A running hash, of hashlib or another."""

    def update(self, data: Any, /) -> None:
        """Take bytes: any object with a contiguous buffer."""

    def hexdigest(self) -> str:
        """Return the hash of all bytes so far, in hex."""


def hash_file(path: Path, progress: Progress | None = None) -> str:
    """Return the sha256 of a file's bytes, in hex.

    Args:
        path: The file.
        progress: Called with (bytes hashed, bytes of the file).

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        if progress is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        meter, digest = Meter(os.fstat(file.fileno()).st_size, progress), hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
            meter.add(len(block))
    return digest.hexdigest()


def read_file(path: Path) -> Iterator[memoryview]:
    """Yield the bytes of a file, block by block, in a buffer that is used again."""
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            yield buffer[:count]


def hash_each(readers: Sequence[Reader], count: Callable[[int], object], most: int | None = None) -> list[str]:
    """Hash streams, several at a time.

    Args:
        readers: The streams, begun in this order.
        count: Called with the bytes of each buffer once it is hashed, in any thread.
        most: Most threads that hash; None for as many as there are processors.

    Returns:
        The sha256 of each stream, in hex.
    """

    def hash_one(number: int) -> str:
        digest = hashlib.sha256()
        for block in readers[number]():
            digest.update(block)
            count(len(block))
        return digest.hexdigest()

    return list(call_each(hash_one, range(len(readers)), most, name="hash").values())

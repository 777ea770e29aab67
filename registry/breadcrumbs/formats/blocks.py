"""Blocks: bytes of a file, read piece by piece into buffers that are used again.

Files are read with preadv and never mapped: a mapped file that another program shortens kills the process that reads.
"""

from collections.abc import Iterator

from registry.errors import InvalidInput
from registry.files.copying import read_at

BLOCK_ELEMENTS = 2**20
"""Elements processed at a time; a multiple of 8, so that blocks of a bitmask are whole bytes."""

HASH_BYTES = 2**20
"""Bytes hashed at a time: they stay in the processor's cache from reading to hashing."""


def blocks(count: int, step: int = BLOCK_ELEMENTS) -> Iterator[tuple[int, int]]:
    """Cut `count` elements into (start, stop) blocks of at most `step`."""
    for start in range(0, count, step):
        yield start, min(start + step, count)


def fill(view: memoryview, file: int, at: int, what: str, error: type[InvalidInput]) -> None:
    """Fill a view with the bytes of a file.

    Args:
        view: Writable bytes, filled whole.
        file: The file's descriptor.
        at: The first byte to read.
        what: What the message calls the file, at the start of a sentence.
        error: The class of error to raise.

    Raises:
        InvalidInput: The file ends too early; raised as `error`.
    """
    try:
        read_at(file, view, at)
    except EOFError:
        raise error(f"{what} became shorter while it was read; fetch it again.") from None

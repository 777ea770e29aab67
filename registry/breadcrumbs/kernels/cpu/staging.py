"""Staging a chunk of one tensor: reading masks and values, and laying them out for the kernels that compose."""

import numpy as np

from registry.breadcrumbs.kernels.constants import CODE, FILE, INDEX_WIDTH, MASK, VALUES, WIDTH
from registry.breadcrumbs.kernels.cpu.compiling import exported, kernel
from registry.breadcrumbs.kernels.cpu.intrinsics import address_of, load32, load64, ones, pread, store64


@kernel
def _read_whole(file, at, arena, to, left):
    """Read `left` bytes of a file from byte `at` on; return whether the file has them all."""
    while left > 0:
        got = pread(np.int32(file), address_of(arena, to), np.uintp(left), at)
        if got <= 0:
            return False
        at, to, left = at + got, to + got, left - got
    return True


@exported("int64(int64[:, ::1], uint8[::1])")
def read_parts(parts, arena):
    """Read parts of files, one after another, without returning to the interpreter in between.

    Args:
        parts: int64 [n, 4], for each part: file descriptor, offset in the file, offset in the arena, bytes.
        arena: uint8, filled.

    Returns:
        The number of the first part that could not be read whole, or -1.
    """
    for number in range(parts.shape[0]):
        if not _read_whole(parts[number, 0], parts[number, 1], arena, parts[number, 2], parts[number, 3]):
            return number
    return -1


@exported("int64(int64[:, ::1], int64, int64, int64, int64, uint8[::1], int64[::1], int64[::1])")
def read_masks(sources, first, length, at, step, arena, places, counts):
    """Read the bitmasks of a chunk, one after another, and count their bits.

    Args:
        sources: int64 [S, 7], a row for each patch, as above; those with indices are skipped.
        first: The byte of each mask at which the chunk begins.
        length: Bytes of each mask.
        at, step: Offset of the first mask in the arena, and the distance to the next. There is room for 8 bytes more
            after each, which become 0, since kernels read whole words.
        arena: uint8, filled.
        places, counts: int64 [S], filled: offset of each mask, and how many of its bits are set.

    Returns:
        The number of the first patch whose mask could not be read whole, or -1.
    """
    for number in range(sources.shape[0]):
        if sources[number, INDEX_WIDTH] != 0:
            continue
        if not _read_whole(sources[number, FILE], sources[number, MASK] + first, arena, at, length):
            return number
        store64(arena, at + length, np.uint64(0))
        count = 0
        for place in range(at, at + length, 8):
            count += ones(load64(arena, place))
        places[number], counts[number] = at, count
        at += step
    return -1


@exported(
    "UniTuple(int64, 2)(int64[:, ::1], float64[::1], int64[::1], int64[::1], int64[::1], int64, int64, int64, "
    "int64[:, ::1], float64[::1], int64[:, ::1])"
)
def lay_out(sources, scales, places, counts, used, at, align, pad, table, chosen, parts):
    """Lay out the values of a chunk behind its masks, and list what must be read.

    Args:
        sources, scales: int64 [S, 7] as above, and float64 [S].
        places, counts: int64 [S], offset of each mask, and how many values belong to it.
        used: int64 [S], how many values belong to the chunks before.
        at, align, pad: Offset of the free room in the arena, its alignment, and the bytes left free between parts.
        table: int64 [S, 5], filled with a row for each patch that has values, as `compose_chunk` takes it.
        chosen: float64 [S], filled with the scales of those patches.
        parts: int64 [S, 4], filled with what must be read for them, as `read_parts` takes it.

    Returns:
        How many rows there are, and where the layout ends.
    """
    rows = 0
    for number in range(sources.shape[0]):
        count, width = counts[number], sources[number, WIDTH]
        if count == 0:
            continue
        table[rows, 0], table[rows, 1], table[rows, 2] = places[number], at, sources[number, CODE]
        table[rows, 3], table[rows, 4] = sources[number, INDEX_WIDTH], count
        chosen[rows] = scales[number]
        parts[rows, 0], parts[rows, 1] = sources[number, FILE], sources[number, VALUES] + width * used[number]
        parts[rows, 2], parts[rows, 3] = at, width * count
        at += (width * count + pad + align - 1) // align * align
        rows += 1
    return rows, at


@exported("int64(uint8[::1], int64, int64, int64, int64, int64, int64)")
def count_indices(arena, at, width, count, first, stop, last):
    """Count the indices that belong to a chunk, and check that they increase.

    Args:
        arena: uint8, holds the indices.
        at, width, count: Their offset, bytes of each (4 or 8), and how many there are.
        first, stop: The chunk's elements.
        last: The index before them; -1 at the start.

    Returns:
        How many are below `stop`; or -1 if they do not strictly increase or one is below `first`.
    """
    for number in range(count):
        index = np.int64(load32(arena, at + 4 * number)) if width == 4 else np.int64(load64(arena, at + 8 * number))
        if index <= last or index < first:
            return -1
        if index >= stop:
            return number
        last = index
    return count


@exported("void(uint8[::1], int64, int64, int64, int32[::1])")
def block_starts(arena, at, size, block, starts):
    """Count the bits set before each block of a mask: int32 [ceil(size / block)] into `starts`."""
    count = 0
    for number in range(starts.size):
        starts[number] = count
        for place in range(at + number * block // 8, at + min(size, (number + 1) * block) // 8, 8):
            count += ones(load64(arena, place))

"""Selection by counting the bits of keys: see kernels/select.py."""

import numpy as np

from registry.breadcrumbs.kernels.cpu.compiling import exported, kernel


@exported("UniTuple(int64, 2)(int64[::1], int64)")
def nth_bin(counts, wanted):
    """Find the bin that holds the wanted-th, counting down from the last bin, and its place in that bin, from 1 on."""
    at = counts.size - 1
    while counts[at] < wanted:
        wanted -= counts[at]
        at -= 1
    return at, wanted


@kernel
def nth_largest(keys, size, wanted, counts):
    """Find the key of the wanted-th largest, and how many equal to it are among the first `wanted`.

    Args:
        keys: uint32 [size].
        size: Elements.
        wanted: 1..size.
        counts: int64 [2048], overwritten.
    """
    prefix = 0  # the highest bits of the key
    for shift, width in ((20, 11), (10, 10), (0, 10)):
        counts[: 1 << width] = 0
        for place in range(size):
            key = np.int64(keys[place])
            if key >> (shift + width) == prefix:
                counts[(key >> shift) & ((1 << width) - 1)] += 1
        part, wanted = nth_bin(counts[: 1 << width], wanted)
        prefix = prefix << width | part
    return prefix, wanted

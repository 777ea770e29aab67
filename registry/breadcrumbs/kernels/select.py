"""Selection: exact order statistics of |delta| by counting, without sorting.

The bits of a non-negative float32, read as an integer, order as the floats do: `key = bits & 0x7fffffff`. Counting
the high 16 bits of the keys, then the low 15 of those that share the right high part, finds the m-th largest exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.kernels.compose import kernel

Counts = npt.NDArray[np.int64]

LOW = 15
"""Low bits of a key, which are counted second; the 16 high bits above them are counted first."""

LOW_MASK = (1 << LOW) - 1
"""The low bits of a key."""

HIGH_BINS, LOW_BINS = 1 << (31 - LOW), 1 << LOW
"""How many high parts and low parts of a key there are."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The first m elements in order: every key above `key`, and the first `ties` of those equal to it."""

    key: int
    ties: int


ALL = Cut(0, 0)
"""The cut below everything that changed."""

NONE = Cut(2**31 - 1, 0)
"""The cut above everything: its key is above that of every float32."""


@kernel
def nth_bin(counts: Counts, wanted: int) -> tuple[int, int]:
    """Find the bin that holds the wanted-th, counting down from the last bin, and its place in that bin, from 1 on."""
    at = counts.size - 1
    while counts[at] < wanted:
        wanted -= counts[at]
        at -= 1
    return at, wanted


@kernel
def nth_largest(keys: npt.NDArray[np.uint32], size: int, wanted: int, counts: Counts) -> tuple[int, int]:
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


def find_cuts(high: Counts, count_low: Callable[[Counts], Counts], first: int, second: int) -> tuple[Cut, Cut]:
    """Find where the first m elements end in the order |delta| descending, index ascending, for two values of m.

    Args:
        high: int64 [2^16], how many keys have each high part; elements that did not change are not counted.
        count_low: Called with one or two high parts, int64 [B]; counts the low parts of their keys, int64 [B, 2^15].
        first, second: The values of m, each 0 or more.

    Returns:
        The cuts for `first` and `second`.
    """
    total = int(high.sum())
    places = {m: nth_bin(high, m) for m in (first, second) if 0 < m < total}
    bins = sorted({int(at) for at, _ in places.values()})
    lows = dict(zip(bins, count_low(np.array(bins, np.int64)), strict=True)) if bins else {}

    def cut(m: int) -> Cut:
        if m not in places:
            return ALL if m else NONE
        at, rest = places[m]
        low, ties = nth_bin(lows[int(at)], rest)
        return Cut(int(at) << LOW | int(low), int(ties))

    return cut(first), cut(second)

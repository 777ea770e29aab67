"""Selection: exact order statistics of |delta| by counting, without sorting.

The bits of a non-negative float32, read as an integer, order as the floats do: `key = bits & 0x7fffffff`. Counting
the high 16 bits of the keys, then the low 15 of those that share the right high part, finds the m-th largest exactly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.kernels.constants import LOW
from registry.breadcrumbs.kernels.machine_code import Kernel

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cut:
    """The first m elements in order: every key above `key`, and the first `ties` of those equal to it."""

    key: int
    ties: int


ALL = Cut(0, 0)
"""The cut below everything that changed."""

NONE = Cut(2**31 - 1, 0)
"""The cut above everything: its key is above that of every float32."""


nth_bin = Kernel("select", "nth_bin")
"""Find the bin that holds the wanted-th, counting from the last down: (counts, wanted) -> bin, place in it from 1."""


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

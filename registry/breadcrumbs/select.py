"""Exact order statistics of |delta| by counting, without sorting.

The bits of a non-negative float32, read as an integer, order as the floats do: `key = bits & 0x7fffffff`. Counting
the high 16 bits of the keys, then the low 15 of those that share the right high part, finds the m-th largest exactly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.checkpoint import blocks

Floats = npt.NDArray[np.float32]
Keys = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]

NOTHING = 2**31 - 1
"""A key above that of every float32."""

LOW = 15


@dataclass(frozen=True, slots=True)
class Cut:
    """The first m elements in order: every key above `key`, and the first `ties` of those equal to it.

    `equal` is how many elements have that key.
    """

    key: int
    ties: int
    equal: int


def keys_of(delta: Floats) -> Keys:
    """Return the ordering keys of |delta|, same shape."""
    return delta.view(np.int32) & np.int32(0x7FFFFFFF)


def find_cuts(delta: Floats, counts: Sequence[int]) -> list[Cut]:
    """Find where the first m elements end in the order |delta| descending, index ascending.

    Args:
        delta: [N] float32, finite.
        counts: The values of m, each 0..N.

    Returns:
        One cut for each m.
    """
    high = np.zeros(1 << (31 - LOW), np.int64)
    for start, stop in blocks(delta.size):
        high += np.bincount(keys_of(delta[start:stop]) >> LOW, minlength=high.size)
    above = high[::-1].cumsum()[::-1]  # above[b]: elements in bins >= b
    bins = {m: int(np.flatnonzero(above >= m)[-1]) for m in counts if m > 0}
    lows = {b: np.zeros(1 << LOW, np.int64) for b in bins.values()}
    for start, stop in blocks(delta.size) if lows else ():
        keys = keys_of(delta[start:stop])
        for b, low in lows.items():
            inside = keys[keys >> LOW == b] & ((1 << LOW) - 1)
            low += np.bincount(inside, minlength=low.size)
    cuts = []
    for m in counts:
        if m == 0:
            cuts.append(Cut(NOTHING, 0, 0))
            continue
        b = bins[m]
        rest = m - int(above[b] - high[b])  # to be found inside bin b, 1..high[b]
        inner = lows[b][::-1].cumsum()[::-1]
        last = int(np.flatnonzero(inner >= rest)[-1])
        equal = int(lows[b][last])
        cuts.append(Cut(b << LOW | last, rest - int(inner[last] - equal), equal))
    return cuts


def taken(keys: Keys, cut: Cut, seen: int) -> tuple[Bools, int]:
    """Say which elements of a block are among the first m.

    Args:
        keys: The block's keys.
        cut: Where the first m end.
        seen: How many keys equal to the cut's came in earlier blocks.

    Returns:
        One bool per key, and the new `seen`.
    """
    if cut.ties == cut.equal:  # no tie is split
        return keys >= np.int32(cut.key), seen
    found = keys > np.int32(cut.key)
    ties = np.flatnonzero(keys == np.int32(cut.key))
    found[ties[: max(0, cut.ties - seen)]] = True
    return found, seen + ties.size


def row_taken(keys: Keys, part: Keys, count: int) -> Bools:
    """Say which elements are among the first `count` of their row.

    Args:
        keys: [R, D].
        part: [R, D] the same keys, each row partitioned at ascending place D - count.
        count: 0..D.

    Returns:
        bool [R, D].
    """
    if count == 0:
        return np.zeros(keys.shape, np.bool_)
    edge = part[:, keys.shape[1] - count, None]  # [R, 1] the count-th largest
    found, equal = keys > edge, keys == edge
    ties = count - found.sum(1)  # [R] of the equal ones, how many are among the first
    split = np.flatnonzero(ties < equal.sum(1))
    equal[split] &= equal[split].cumsum(1, dtype=np.int32) <= ties[split, None]
    found |= equal
    return found

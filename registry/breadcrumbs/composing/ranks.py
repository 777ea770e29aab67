"""Ranks: how many values of each patch come before an element of a tensor, so that composing may begin there.

    mask   | block | block | block | block |      bits are counted, a block at a time, from the nearest block
             ^ known ------> wanted    known ^    whose rank is known: at first the two ends of the tensor

What is counted stays known, so the next range that begins near by is found at once.
"""

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]

BLOCK = 2**20
"""Elements whose bits are counted at a time; a multiple of 64."""


class Ranks:
    """The ranks of one tensor's blocks, as far as they are known; threads may share it.

    Args:
        numel: Elements of the tensor.
        whole: How many bits each mask has: int64 [patches].
    """

    def __init__(self, numel: int, whole: Numbers) -> None:
        self.numel = numel
        self._step = BLOCK
        self._lock = threading.Lock()
        self._rows = np.zeros((-(-numel // self._step) + 1, len(whole)), np.int64)
        self._rows[-1] = whole
        self._known = np.zeros(len(self._rows), np.bool_)
        self._known[[0, -1]] = True

    def before(self, first: int, count: Callable[[int, int], Numbers]) -> Numbers:
        """Return how many bits of each mask come before an element: int64 [patches].

        Args:
            first: The element, below their number; a multiple of 64.
            count: Counts the bits of each mask for elements from..to - 1.
        """
        block = first // self._step
        with self._lock:
            self._count_to(block, count)
            found: Numbers = self._rows[block].copy()
        start = block * self._step
        return found + count(start, first) if first > start else found

    def _count_to(self, block: int, count: Callable[[int, int], Numbers]) -> None:
        """Count from the nearest block whose rank is known."""
        known = np.flatnonzero(self._known)
        place = int(np.searchsorted(known, block, "right"))
        below, above = int(known[place - 1]), int(known[place])
        if block - below <= above - block:
            for at in range(below, block):
                self._rows[at + 1] = self._rows[at] + self._count(at, count)
                self._known[at + 1] = True
        else:
            for at in range(above - 1, block - 1, -1):
                self._rows[at] = self._rows[at + 1] - self._count(at, count)
                self._known[at] = True

    def _count(self, block: int, count: Callable[[int, int], Numbers]) -> Numbers:
        return count(block * self._step, min((block + 1) * self._step, self.numel))

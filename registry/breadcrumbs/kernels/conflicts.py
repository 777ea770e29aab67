"""Measuring what patches do to the same weights, on the CPU; cpu/conflicts.py has the source.

Nothing is checked, and arrays have room after their last element: see compose.py.
"""

import numpy as np

from registry.breadcrumbs.kernels.compose import Doubles, Numbers, Octets
from registry.breadcrumbs.kernels.constants import SPAN, WORDS
from registry.breadcrumbs.kernels.machine_code import Kernel

_measure_chunk = Kernel("conflicts", "measure_chunk")


def measure_chunk(
    arena: Octets,
    size: int,
    first: int,
    table: Numbers,
    numbers: Numbers,
    pairs: Numbers,
    own: Doubles,
    census: Numbers,
    counts: Numbers,
    sums: Doubles,
) -> None:
    """Measure a chunk of one tensor.

    Args:
        arena: uint8, what was read for the chunk.
        size: Elements of the chunk.
        first: Place of its first element in the tensor, from which indices count.
        table: int64 [R, 5], a row for each patch that touches the chunk, as `compose_chunk` takes it.
        numbers: int64 [R], the number of each among the P patches that touch the tensor.
        pairs: int64 [K, 2], numbers of the patches to compare.
        own: float64 [P, 2], added to: L1, SQUARES of each patch.
        census: int64 [P + 1], added to from element 1 on: how many weights exactly 1, 2, ... patches touch.
        counts: int64 [K, 2], added to: OVERLAP, OPPOSED of each pair.
        sums: float64 [K, 5], added to: OVERLAP_MASS, OPPOSED_MASS, DOT, FIRST_SQUARES, SECOND_SQUARES of each pair.
    """
    rows = len(table)
    row_of, used = np.empty(len(own), np.int64), np.empty(rows, np.int64)
    words = np.zeros((rows + 1) * WORDS, np.uint64)
    planes = np.empty((rows.bit_length(), WORDS), np.uint64)
    values = np.empty((rows, SPAN), np.float32)
    scratch = row_of, used, words, planes, values
    _measure_chunk(arena, size, first, table, numbers, pairs, own, census, counts, sums, *scratch)

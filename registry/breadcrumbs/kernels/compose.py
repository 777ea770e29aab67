"""Composing a chunk of one tensor on the CPU; its source, cpu/compose.py, has all of the arithmetic.

Kernels check no bounds: they trust what their callers have checked, and arrays have PAD bytes of room after their last
element.
"""

import numpy as np
from numpy.typing import NDArray

from registry.breadcrumbs.kernels.machine_code import Kernel

Octets = NDArray[np.uint8]
Numbers = NDArray[np.int64]
Doubles = NDArray[np.float64]

_compose_chunk = Kernel("compose", "compose_chunk")


def compose_chunk(
    arena: Octets,
    base_at: int,
    code: int,
    size: int,
    first: int,
    table: Numbers,
    scales: Doubles,
    out: Octets,
    method: int,
    alpha: float,
) -> int:
    """Compose a chunk of one tensor.

    Args:
        arena: uint8, what was read for the chunk.
        base_at, code: Offset of the base's bytes in the arena, and their dtype.
        size: Elements of the chunk.
        first: Place of its first element in the tensor, from which indices count.
        table: int64 [P, 5], for each patch, ascending by sha256: offset of the mask; offset of the values; dtype of the
            values; bytes of an index, or 0 for a bitmask; number of values in the chunk.
        scales: float64 [P], each a float32: with SUM alpha times the weight, elsewhere the weight.
        out: uint8, filled with the composed bytes.
        method: SUM, TIES or MEAN.
        alpha: A float32, by which TIES and MEAN multiply what they combine.

    Returns:
        How many results are not finite where the base was.
    """
    used = np.empty(len(table), np.int64)
    found: int = _compose_chunk(arena, base_at, code, size, first, table, scales, out, method, alpha, used)
    return found

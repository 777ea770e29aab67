"""Measuring conflicts by CUDA: counts as the CPU's, and sums of the same terms in another order; see conflicts.cu."""

import torch

from registry.breadcrumbs.kernels.cuda import launching
from registry.breadcrumbs.kernels.cuda.counting import count_before

WARPS, BLOCK, SUMS = 4, 1024, 7
"""Warps of a block, elements of a warp, and what is summed for a pair, as in conflicts.cu."""

MAX_SLICES = 64
"""Most blocks that share a patch's values, or a pair."""

MAX_SUMS = 2**26
"""Most bytes of the sums that blocks leave, where nothing else is said."""

MAX_PATCHES = 2**16 - 1
"""Most patches of one tensor that are counted."""


def _launch(name: str, grid: int, *arguments: torch.Tensor | int) -> None:
    if grid:
        launching.launch("conflicts.cu", name, grid, 32 * WARPS, *arguments)


def measure_chunk(
    arena: torch.Tensor, table: torch.Tensor, size: int, pairs: torch.Tensor, room: int = MAX_SUMS
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Measure a chunk of one tensor.

    Args:
        arena: uint8, the patches' bitmasks and values; 4 bytes may be read after a mask.
        table: int64 [R, 5], a row for each patch that touches the chunk, as `kernels.compose.compose_chunk` has it,
            with bitmasks only.
        size: Elements of the chunk.
        pairs: int64 [K, 2], rows of the patches to compare; on the CPU, if there may be many.
        room: Most bytes of the arena's device that pairs take at a time; one pair is always measured.

    Returns:
        float64 [R, 2], L1 and SQUARES of each patch; int64 [R + 1], how many weights exactly 1, 2, ... patches touch,
        from element 1 on; float64 [K, 7], counts and sums of each pair, where `pairs` is. kernels/conflicts.py
        names the columns.
    """
    rows, blocks, device = len(table), -(-size // BLOCK), arena.device
    slices = max(1, min(MAX_SLICES, -(-blocks // WARPS)))
    own = torch.zeros(rows, slices, 2, dtype=torch.float64, device=device)
    _launch("own", rows * slices, arena, table, own, slices)
    census = torch.zeros(rows + 1, dtype=torch.int64, device=device)
    _launch("census", -(-blocks // WARPS) if rows else 0, arena, table, census, size, rows)
    starts = count_before(arena, table, size, BLOCK)
    sums = torch.zeros(len(pairs), SUMS, dtype=torch.float64, device=pairs.device)
    most = max(1, room // (8 * SUMS * (slices + 1) + 16))  # a pair's sums, their sum, and the pair
    for first in range(0, len(pairs), most):
        some = pairs[first : first + most].to(device)
        found = torch.zeros(len(some), slices, SUMS, dtype=torch.float64, device=device)
        _launch("pairs", len(some) * slices, arena, table, starts, some, found, size, slices)
        sums[first : first + most] = found.sum(1)
    return own.sum(1), census, sums

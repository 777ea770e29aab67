"""Counting by CUDA: how many values come before each block of elements, and bitmasks of patches with indices."""

import torch

from registry.breadcrumbs.kernels.cuda import launching

WARPS = 4
"""Warps of a block, as in counting.cu."""


def count_before(arena: torch.Tensor, table: torch.Tensor, size: int, block: int, first: int = 0) -> torch.Tensor:
    """Count how many values of each patch come before every block of elements.

    Args:
        arena: uint8, the patches' masks; 4 bytes may be read after one.
        table: int64 [P, 5], as `kernels.compose.compose_chunk` has it.
        size: Elements of the chunk.
        block: Elements of a block: a multiple of 32, 1024 at most.
        first: Place of the chunk's first element in the tensor, from which indices count.

    Returns:
        int32 [P, B + 1], how many come before each of the B blocks, then all.
    """
    patches, blocks = len(table), -(-size // block)
    starts = torch.zeros(patches, blocks + 1, dtype=torch.int32, device=arena.device)
    if patches and blocks:
        counts = torch.empty(patches, blocks, dtype=torch.int32, device=arena.device)
        grid = -(-patches * blocks // WARPS)
        ask = arena, table, counts, size, first, patches, block
        launching.launch("counting.cu", "count_values", grid, 32 * WARPS, *ask)
        starts[:, 1:] = counts.cumsum(1, dtype=torch.int32)
    return starts


def set_bits(indices: torch.Tensor, mask: torch.Tensor, first: int) -> None:
    """Set the bits of a sparse patch in a bitmask of zeros.

    Args:
        indices: int32 or int64 [k], increasing.
        mask: int32 [m], whose bits stand for the elements from `first` on.
        first: Subtracted from every index.
    """
    if count := indices.numel():
        grid = -(-count // (32 * WARPS))
        ask = indices, mask, count, indices.element_size(), first
        launching.launch("counting.cu", "set_bits", grid, 32 * WARPS, *ask)

"""Composing by CUDA: one launch composes a chunk of one tensor, to the CPU's bits; compose.cu has the arithmetic."""

from collections.abc import Iterable

import torch

from registry.breadcrumbs.kernels.constants import CODES, MEAN, SUM, TIES
from registry.breadcrumbs.kernels.cuda import launching

BLOCKS = {SUM: 1024, MEAN: 512, TIES: 256}
"""Elements of a warp by method, before which values are counted: 8 KB of sums, masses and weights."""

WARPS = 4
"""Warps of a block, as in compose.cu."""

MIXED = 3
"""The kind of patches whose values are of several dtypes, or some of which have indices."""


def kind_of(rows: Iterable[tuple[int, int]], method: int = SUM) -> int:
    """Return the kind of patches, for which there are kernels: the dtype of all values, where all masks are bitmasks.

    Args:
        rows: Of each patch: the dtype of its values, and the bytes of an index or 0.
        method: SUM, TIES or MEAN; only for SUM there is more than one kind.
    """
    kinds = {MIXED if width or method != SUM else code for code, width in rows}
    return kinds.pop() if len(kinds) == 1 else MIXED


def compose_chunk(
    arena: torch.Tensor,
    base: torch.Tensor,
    out: torch.Tensor,
    dtype: str,
    table: torch.Tensor,
    scales: torch.Tensor,
    starts: torch.Tensor,
    lost: torch.Tensor,
    method: int = SUM,
    first: int = 0,
    kind: int = MIXED,
) -> None:
    """Compose a chunk of one tensor.

    Args:
        arena: uint8, the patches' masks and values, whose offsets are multiples of 8; 4 bytes may be read after a mask.
        base: uint8, the base's bytes, on a multiple of 16.
        out: uint8, as many, filled, on a multiple of 16; it may be `base`.
        dtype: The base's dtype: BF16, F16, F32 or F64.
        table: int64 [P, 5], for each patch, ascending by sha256, as `kernels.compose.compose_chunk` has it.
        scales: float64 [P + 1], each a float32: as `kernels.compose.compose_chunk` has them, then its alpha.
        starts: int32 [P, B + 1], how many values come before each of the B blocks of `BLOCKS[method]`, then all.
        lost: int64 [1], increased by how many results are not finite where the base was.
        method: SUM, TIES or MEAN of `kernels.compose`.
        first: Place of the chunk's first element in the tensor, from which indices count.
        kind: Of the patches, as `kind_of` finds it; MIXED is always right.
    """
    size = base.numel() // (2 if dtype in ("BF16", "F16") else 4 if dtype == "F32" else 8)
    blocks = -(-size // BLOCKS[method])
    if not blocks:
        return
    ask = arena, base, out, table, scales, starts, lost, size, first, len(table)
    name = f"compose<{CODES[dtype]}, {method}, {kind}>"
    launching.launch("compose.cu", name, -(-blocks // WARPS), 32 * WARPS, *ask)

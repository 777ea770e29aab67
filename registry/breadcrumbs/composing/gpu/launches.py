"""Launches: a chunk as the kernels want it, those of CUDA where NVRTC is there, and Triton's elsewhere."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from registry.breadcrumbs.composing.engines import Rule
from registry.breadcrumbs.composing.gpu.held import Wholly
from registry.breadcrumbs.composing.staging import Arena, Chunk
from registry.breadcrumbs.kernels.constants import PAD
from registry.breadcrumbs.kernels.cuda import launching
from registry.breadcrumbs.kernels.cuda.compose import BLOCKS, compose_chunk, kind_of
from registry.breadcrumbs.kernels.cuda.counting import count_before
from registry.breadcrumbs.kernels.staging import block_starts

Parts = Sequence[npt.NDArray[Any]]


class Launch(Protocol):
    """How one chunk is composed on a GPU.

    Attributes:
        parts: What the GPU needs besides the arena.
    """

    parts: Parts

    def compose(
        self,
        there: torch.Tensor,
        base: torch.Tensor,
        out: torch.Tensor,
        lost: torch.Tensor,
        parts: Sequence[torch.Tensor],
    ) -> None:
        """Compose the chunk.

        Args:
            there: uint8, the arena on the GPU.
            base: uint8, the base's bytes there.
            out: uint8, as many, filled.
            lost: int64 [1], increased by how many results are not finite where the base was.
            parts: The launch's parts there.
        """


class StagedLaunch(Launch, Protocol):
    """A launch of a chunk that is staged.

    Attributes:
        end: Bytes of the arena that are used on the GPU: those that were read, and room for bitmasks.
        extra: Bytes of the GPU's memory besides.
    """

    end: int
    extra: int

    def __init__(self, chunk: Chunk, arena: Arena, rule: Rule) -> None: ...


class CudaLaunch:
    """By the kernels of kernels/cuda, which count on the GPU what Triton's need counted."""

    def __init__(self, chunk: Chunk, arena: Arena, rule: Rule) -> None:
        self.chunk, self.rule, self.end = chunk, rule, arena.used
        self.block = BLOCKS[rule.method]
        self.kind = kind_of(map(tuple, chunk.table[:, 2:4].tolist()), rule.method)
        self.parts: Parts = (chunk.table, np.append(chunk.scales, rule.alpha))
        self.extra = 12 * len(chunk.table) * (-(-chunk.size // self.block) + 2)

    def compose(
        self,
        there: torch.Tensor,
        base: torch.Tensor,
        out: torch.Tensor,
        lost: torch.Tensor,
        parts: Sequence[torch.Tensor],
    ) -> None:
        """Compose the chunk; arguments as of `Launch.compose`."""
        table, scales = parts
        starts = count_before(there, table, self.chunk.size, self.block, self.chunk.first)
        ask = there, base, out, self.chunk.spec.dtype, table, scales, starts, lost
        compose_chunk(*ask, self.rule.method, self.chunk.first, self.kind)


class HeldLaunch:
    """By the same kernels, of patches that stay on the GPU; the chunk begins at a multiple of `held.LONGEST`.

    Args:
        chunk: The chunk, of which at most the base is in an arena.
        rule: How patches are combined.
        wholly: What the tensor is composed of.
    """

    def __init__(self, chunk: Chunk, rule: Rule, wholly: Wholly) -> None:
        self.chunk, self.rule, self.wholly = chunk, rule, wholly
        self._origin, self.block = wholly.touching[0][0].arena, BLOCKS[rule.method]
        rows = np.array(wholly.rows(self._origin.data_ptr(), chunk.first), np.int64).reshape(-1, 5)
        self.parts: Parts = rows, np.array(wholly.factors(rule), np.float64)

    def compose(
        self,
        there: torch.Tensor,
        base: torch.Tensor,
        out: torch.Tensor,
        lost: torch.Tensor,
        parts: Sequence[torch.Tensor],
    ) -> None:
        """Compose the chunk; arguments as of `Launch.compose`."""
        table, scales = parts
        first, stop = self.chunk.first // self.block, -(-self.chunk.stop // self.block)
        starts = torch.stack([held.starts[self.block][first : stop + 1] for held, _ in self.wholly.touching])
        ask = self._origin, base, out, self.chunk.spec.dtype, table, scales, starts, lost
        compose_chunk(*ask, self.rule.method, self.chunk.first, self.wholly.kind(self.rule))


class TritonLaunch:
    """By Triton's kernels, which want bitmasks only, and the values before each block counted."""

    def __init__(self, chunk: Chunk, arena: Arena, rule: Rule) -> None:
        from registry.breadcrumbs.kernels import gpu  # imports Triton, which need not be there

        self.gpu, self.chunk, self.rule, self.end = gpu, chunk, rule, arena.used
        block, count = gpu.BLOCK, len(chunk.table)
        self._starts = np.empty((count, -(-chunk.size // block)), np.int32)
        self._table = np.ascontiguousarray(chunk.table[:, :3])
        self._sparse: list[tuple[int, int]] = []  # the patches with indices, and where their bits go
        self._bits = (chunk.size + 31) // 32 * 4
        for number, (mask_at, _, _, width, entries) in enumerate(chunk.table.tolist()):
            if width:
                self._table[number, 0] = self.end
                self._sparse.append((number, self.end))
                self.end += -(-(self._bits + PAD) // 64) * 64
                indices = np.frombuffer(arena.view, f"<i{width}", entries, mask_at)
                self._starts[number] = np.searchsorted(
                    indices, chunk.first + np.arange(len(self._starts[number])) * block
                )
            else:
                block_starts(arena.bytes, mask_at, chunk.size, block, self._starts[number])
        self.parts: Parts = (self._table, np.append(chunk.scales, rule.alpha), self._starts)
        self.extra = 0

    def compose(
        self,
        there: torch.Tensor,
        base: torch.Tensor,
        out: torch.Tensor,
        lost: torch.Tensor,
        parts: Sequence[torch.Tensor],
    ) -> None:
        """Compose the chunk; arguments as of `Launch.compose`."""
        for number, at in self._sparse:
            mask_at, width, entries = (int(self.chunk.table[number, column]) for column in (0, 3, 4))
            mask = there[at : at + self._bits].view(torch.int32)
            mask.zero_()
            kind = torch.int32 if width == 4 else torch.int64
            self.gpu.set_bits(there[mask_at : mask_at + width * entries].view(kind), mask, self.chunk.first)
        table, scales, starts = parts
        ask = there, base, out, self.chunk.spec.dtype, table, scales, starts, lost
        self.gpu.compose_chunk(*ask, self.rule.method)


def pick_launch(device: torch.device) -> type[StagedLaunch]:
    """Return how chunks are composed on a device: by CUDA's kernels on an NVIDIA GPU with NVRTC, else by Triton's."""
    return CudaLaunch if launching.can_launch(device) else TritonLaunch

"""The engine that measures chunks by the kernels of kernels/cuda: masks and values stay packed as they were read.

arena --copy in--> indices to bitmasks --> values counted before each block --> patches, census, pairs --> sums
"""

import numpy as np
import torch

from registry.breadcrumbs.comparing.engines import Measured, Numbers, zeros
from registry.breadcrumbs.comparing.torch_engine import TorchEngine
from registry.breadcrumbs.composing.gpu.tensor_arena import TensorArena
from registry.breadcrumbs.composing.staging import Chunk
from registry.breadcrumbs.kernels.cuda import launching
from registry.breadcrumbs.kernels.cuda.conflicts import measure_chunk
from registry.breadcrumbs.kernels.cuda.counting import set_bits
from registry.breadcrumbs.kernels.devices import find_gpu


class CudaEngine(TorchEngine):
    """Measures on an NVIDIA GPU, a few chunks at a time; chunks that do not fit there are measured on the CPU."""

    PATCH_BYTES, PAIR_BYTES = 1, 0
    """Most bytes of an element: for each patch, its bit in a mask made of indices, and what is counted; in fact less
    than half, so that the other half is for pairs."""

    def _measure(self, chunk: Chunk, arena: TensorArena, start: int, patches: int, pairs: Numbers) -> Measured:
        """Measure a chunk on the GPU; arguments as of `TorchEngine._measure`."""
        measured = zeros(patches, len(pairs))
        there, table = self._upload(chunk, arena, start)
        numbers = chunk.scales.astype(np.int64)
        row_of = np.full(patches, -1, np.int64)
        row_of[numbers] = np.arange(len(numbers))
        rows = row_of[pairs]
        known = np.flatnonzero((rows >= 0).all(1))
        compared = torch.from_numpy(rows[known])
        found = measure_chunk(there, torch.from_numpy(table).to(self.device), chunk.size, compared, self._left // 2)
        own, census, sums = (part.cpu().numpy() for part in found)
        measured.own[numbers] = own
        measured.census[1 : len(numbers) + 1] = census[1:]
        measured.counts[known], measured.sums[known] = sums[:, :2], sums[:, 2:]
        return measured

    def _upload(self, chunk: Chunk, arena: TensorArena, start: int) -> tuple[torch.Tensor, Numbers]:
        """Copy a chunk from byte `start` of its arena on to the GPU; return it there, and its table with masks only."""
        read, bits = arena.used - start, (chunk.size + 63) // 64 * 8
        sparse = np.flatnonzero(chunk.table[:, 3]).tolist()
        there = torch.zeros(read + len(sparse) * bits, dtype=torch.uint8, device=self.device)
        there[:read].copy_(arena.tensor[start : arena.used], non_blocking=True)
        table = chunk.table.copy()
        table[:, :2] -= start
        for number, row in enumerate(sparse):
            mask_at, width, count = (int(table[row, column]) for column in (0, 3, 4))
            indices = there[mask_at : mask_at + width * count].view(torch.int32 if width == 4 else torch.int64)
            at = read + number * bits
            set_bits(indices, there[at : at + bits].view(torch.int32), chunk.first)
            table[row, 0], table[row, 3] = at, 0
        return there, table


def open_gpu_engine(memory: int | None) -> TorchEngine:
    """Return the engine of the GPU, by CUDA where its kernels can be launched; `memory` is as of `find_gpu`."""
    device, room = find_gpu(memory)
    return (CudaEngine if launching.can_launch(device) else TorchEngine)(device, room)

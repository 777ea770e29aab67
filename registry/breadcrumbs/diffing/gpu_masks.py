"""Masks found on a GPU, the same bits as the CPU's."""

import threading
from collections.abc import Iterator

import numpy as np
import torch

from registry.breadcrumbs.diffing.changes import Block, Marked
from registry.breadcrumbs.diffing.mask import Groups
from registry.breadcrumbs.kernels import gpu
from registry.breadcrumbs.kernels.devices import find_gpu
from registry.breadcrumbs.kernels.dtypes import TORCH_DTYPES


class GpuMasks:
    """A GPU that finds the mask of one tensor at a time, for the thread that claims it first.

    Args:
        device: The GPU; a CPU only where Triton interprets.
        memory: Most bytes of its memory to use.
    """

    ELEMENT_BYTES = 12
    """Bytes for an element: its delta, its value where it stays, and what is counted."""

    def __init__(self, device: torch.device, memory: int) -> None:
        self.device, self.memory, self._lock = device, memory, threading.Lock()

    def claim(self, numel: int) -> bool:
        """Reserve the GPU for a tensor of `numel` elements, if it fits and the GPU is free; say whether it did."""
        return self.ELEMENT_BYTES * numel <= self.memory and self._lock.acquire(blocking=False)

    def release(self) -> None:
        """Free the GPU for another tensor."""
        self._lock.release()

    def find(self, numel: int, dtypes: tuple[str, str], blocks: Iterator[Block], groups: Groups) -> Marked:
        """Find the mask of a tensor that is one group; arguments as of `MaskFinder.find`."""
        delta = torch.empty(numel, dtype=torch.float32, device=self.device)
        for start, stop, *both in blocks:
            base, tuned = (
                torch.from_numpy(raw).view(TORCH_DTYPES[dtype]).to(self.device)
                for raw, dtype in zip(both, dtypes, strict=True)
            )
            delta[start:stop] = gpu.subtract(base, tuned)
        not_finite = numel - int(torch.isfinite(delta).sum())
        if not_finite:
            return Marked(0, not_finite, np.empty(0, np.uint8), np.empty(0, np.float32))
        total = int(torch.count_nonzero(delta))
        mask, values = (tensor.cpu().numpy() for tensor in gpu.mark(delta, groups.n_first, groups.n_top))
        return Marked(total, 0, mask, values)


def open_gpu_masks(memory: int | None) -> GpuMasks:
    """Return the GPU of this machine; `memory` is as of `find_gpu`."""
    return GpuMasks(*find_gpu(memory))

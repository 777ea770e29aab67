"""Masks found on a GPU, the same bits as the CPU's."""

import threading
from collections.abc import Iterator

import numpy as np
import torch

from registry.breadcrumbs.diffing.changes import Block, Marked
from registry.breadcrumbs.diffing.mask import Groups
from registry.breadcrumbs.kernels.cuda import launching, select
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
        there = (
            (start, stop, torch.from_numpy(base).to(self.device), torch.from_numpy(tuned).to(self.device))
            for start, stop, base, tuned in blocks
        )
        find = _find_by_cuda if launching.can_launch(self.device) else _find_by_triton
        return find(delta, dtypes, there, groups)


Copied = Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]
"""Blocks whose bytes are on the GPU."""


def _find_by_cuda(delta: torch.Tensor, dtypes: tuple[str, str], blocks: Copied, groups: Groups) -> Marked:
    counts = [select.subtract(base, tuned, dtypes, delta[start:stop]) for start, stop, base, tuned in blocks]
    high = select.totals(counts)
    if not_finite := select.count_not_finite(high):
        return _not_finite(not_finite)
    return _marked(int(high.sum()), *select.mark(delta, high, groups.n_first, groups.n_top))


def _find_by_triton(delta: torch.Tensor, dtypes: tuple[str, str], blocks: Copied, groups: Groups) -> Marked:
    from registry.breadcrumbs.kernels import gpu  # imports Triton, which need not be there

    for start, stop, *both in blocks:
        base, tuned = (octets.view(TORCH_DTYPES[dtype]) for octets, dtype in zip(both, dtypes, strict=True))
        delta[start:stop] = gpu.subtract(base, tuned)
    if not_finite := delta.numel() - int(torch.isfinite(delta).sum()):
        return _not_finite(not_finite)
    return _marked(int(torch.count_nonzero(delta)), *gpu.mark(delta, groups.n_first, groups.n_top))


def _not_finite(count: int) -> Marked:
    return Marked(0, count, np.empty(0, np.uint8), np.empty(0, np.float32))


def _marked(total: int, mask: torch.Tensor, values: torch.Tensor) -> Marked:
    return Marked(total, 0, mask.cpu().numpy(), values.cpu().numpy())


def open_gpu_masks(memory: int | None) -> GpuMasks:
    """Return the GPU of this machine; `memory` is as of `find_gpu`."""
    return GpuMasks(*find_gpu(memory))

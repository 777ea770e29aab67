"""The GPU's kernel by itself, against a copy on the device of as many bytes.

    moved    base + masks + values + result + the counts before each block: each read or written once
    GB/s     moved / seconds as the GPU's own clock has them; a copy of moved / 2 bytes reads and writes as many

Several chunks take turns, more of them than a cache holds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.measure import Sample
from benchmarks.science.makers import CODES, DELTA
from registry.breadcrumbs.kernels import gpu
from registry.breadcrumbs.kernels.dtypes import TORCH_DTYPES

WARM, REPEATED = 3, 15
ALIGN = 64


@dataclass(frozen=True)
class Launch:
    """A chunk on the device, as `gpu.compose_chunk` wants it."""

    arena: torch.Tensor
    base: torch.Tensor
    out: torch.Tensor
    dtype: str
    table: torch.Tensor
    scales: torch.Tensor
    starts: torch.Tensor
    lost: torch.Tensor
    moved: int

    def __call__(self) -> None:
        """Compose it."""
        gpu.compose_chunk(self.arena, self.base, self.out, self.dtype, self.table, self.scales, self.starts, self.lost)


def make_launch(
    size: int, patches: int, density: float, dtype: str, alpha: str, seed: int, device: torch.device
) -> Launch:
    """Make a chunk of random weights and patches with bitmasks.

    Args:
        size: Elements; a multiple of gpu.BLOCK.
        patches: How many patches touch it.
        density: The part of the elements that each keeps, about.
        dtype: bf16, f16 or f32.
        alpha: Scale of every patch.
        seed: Of the random numbers.
        device: Where it is to be.
    """
    random = torch.Generator(device).manual_seed(seed)
    kind, code = TORCH_DTYPES[CODES[dtype]], gpu.CODES[CODES[dtype]]
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
    parts: list[torch.Tensor] = []
    rows, starts, at, moved = [], [], 0, 0
    for _ in range(patches):
        bits = torch.rand(size, generator=random, device=device) < density
        counts = bits.view(-1, gpu.BLOCK).sum(1)
        mask = (bits.view(-1, 8) * powers).sum(1, dtype=torch.uint8)
        values = torch.randn(int(counts.sum()), generator=random, device=device).mul_(DELTA).to(kind).view(torch.uint8)
        places = []
        for part in (mask, values):
            places.append(at)
            padding = -len(part) % ALIGN
            parts += [part, part.new_zeros(padding)]
            at += len(part) + padding
            moved += len(part)
        rows.append((*places, code))
        starts.append((counts.cumsum(0) - counts).to(torch.int32))
    base = torch.randn(size, generator=random, device=device).mul_(0.02).to(kind).view(torch.uint8)
    before = torch.stack(starts)
    return Launch(
        torch.cat([*parts, base.new_zeros(ALIGN)]),
        base,
        torch.empty_like(base),
        CODES[dtype],
        torch.tensor(rows, dtype=torch.int64, device=device),
        torch.full((patches,), float(alpha), dtype=torch.float32, device=device).double(),
        before,
        torch.zeros(1, dtype=torch.int64, device=device),
        moved + 2 * base.nbytes + before.nbytes,
    )


class Copy:
    """A copy on the device that reads and writes so many bytes."""

    def __init__(self, moved: int, device: torch.device) -> None:
        self._from, self._to = (torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2))
        self.moved = 2 * self._from.nbytes

    def __call__(self) -> None:
        """Copy."""
        self._to.copy_(self._from)


def measure_all(calls: Sequence[Callable[[], None]]) -> Sample:
    """Measure calls one after another by the GPU's clock: the median of several times."""
    taken = []
    for _ in range(WARM + REPEATED):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        for call in calls:
            call()
        end.record()
        end.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3)
    return Sample(median(taken[WARM:]))

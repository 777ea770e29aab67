"""Works: what a GPU's kernels are measured by, on inputs made there, against a copy on the device of as many bytes.

    moved    what must be read and written at least once; a copy of moved / 2 bytes reads and writes as many
    GB/s     moved / seconds as the GPU's own clock has them

Several sets of inputs take turns, so that a cache holds nothing of the one before.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median

import numpy as np
import torch

from benchmarks.measure import Sample
from benchmarks.science.makers import CODES, DELTA
from registry.breadcrumbs.kernels.constants import CODES as NUMBERS
from registry.breadcrumbs.kernels.constants import METHODS
from registry.breadcrumbs.kernels.cuda import compose, conflicts, select
from registry.breadcrumbs.kernels.cuda.counting import count_before
from registry.breadcrumbs.kernels.dtypes import TORCH_DTYPES

WARM, REPEATED = 3, 15
ASLEEP = 2_000_000
"""Cycles that a GPU waits before a call, about 1 ms: the host has launched it by then, and its time is not counted."""
ALIGN, BLOCK = 64, 1024

Call = Callable[[], object]


@dataclass(frozen=True)
class Made:
    """A chunk of random weights on the device, and patches with bitmasks for it.

    Args:
        arena: uint8, masks and values.
        base, out: uint8, bytes of the weights, and as many.
        dtype: Of the weights.
        table: int64 [P, 5], as `kernels.compose.compose_chunk` has it.
        scales: float64 [P + 1].
        starts: int32 [P, B + 1], how many values come before each of the B blocks of 1,024 weights, then all.
        size: How many weights there are.
    """

    arena: torch.Tensor
    base: torch.Tensor
    out: torch.Tensor
    dtype: str
    table: torch.Tensor
    scales: torch.Tensor
    starts: torch.Tensor
    size: int

    @property
    def patch_bytes(self) -> int:
        """Bytes of masks and values."""
        width = 4 if self.dtype == "F32" else 2
        return len(self.table) * self.size // 8 + width * int(self.table[:, 4].sum())


def make_chunk(
    size: int, patches: int, density: float, dtype: str, alpha: str, seed: int, device: torch.device
) -> Made:
    """Make a chunk.

    Args:
        size: Weights; a multiple of 1,024.
        patches: How many patches touch it.
        density: The part of the weights that each keeps, about.
        dtype: bf16, f16 or f32.
        alpha: Scale of every patch.
        seed: Of the random numbers.
        device: Where it is to be.
    """
    random = torch.Generator(device).manual_seed(seed)
    kind, code = TORCH_DTYPES[CODES[dtype]], NUMBERS[CODES[dtype]]
    powers = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)
    parts: list[torch.Tensor] = []
    rows, at = [], 0
    starts = torch.zeros(patches, size // BLOCK + 1, dtype=torch.int32, device=device)
    for number in range(patches):
        bits = torch.rand(size, generator=random, device=device) < density
        mask = (bits.view(-1, 8) * powers).sum(1, dtype=torch.uint8)
        starts[number, 1:] = bits.view(-1, BLOCK).sum(1).cumsum(0)
        count = int(starts[number, -1])
        values = torch.randn(count, generator=random, device=device).mul_(DELTA).to(kind).view(torch.uint8)
        places = []
        for part in (mask, values):
            places.append(at)
            padding = -len(part) % ALIGN
            parts += [part, part.new_zeros(padding)]
            at += len(part) + padding
        rows.append((*places, code, 0, count))
    base = torch.randn(size, generator=random, device=device).mul_(0.02).to(kind).view(torch.uint8)
    factor = float(np.float32(float(alpha)))
    return Made(
        torch.cat([*parts, base.new_zeros(ALIGN)]),
        base,
        torch.empty_like(base),
        CODES[dtype],
        torch.tensor(rows, dtype=torch.int64, device=device).reshape(-1, 5),
        torch.full((patches + 1,), factor, dtype=torch.float64, device=device),
        starts,
        size,
    )


@dataclass(frozen=True)
class Work:
    """Something to be measured: calls that take turns, each on inputs of its own, and what one must move at least."""

    calls: Sequence[Call]
    moved: int


def composing(chunks: Sequence[Made], method: str = "sum") -> Work:
    """Compose by the CUDA kernel; values before each block are counted already."""
    number = METHODS[method]
    block = compose.BLOCKS[number]

    def call(made: Made) -> Call:
        counted = made.starts if block == BLOCK else count_before(made.arena, made.table, made.size, block)
        ask = made.arena, made.base, made.out, made.dtype, made.table, made.scales, counted, _zero(made), number
        kind = compose.kind_of([(NUMBERS[made.dtype], 0)], number)
        return lambda: compose.compose_chunk(*ask, kind=kind)

    return Work([call(made) for made in chunks], _composed(chunks[0]))


def composing_by_triton(chunks: Sequence[Made]) -> Work:
    """Compose by Triton's kernel; values before each block are counted already."""
    from registry.breadcrumbs.kernels import gpu  # Triton, which need not be there

    def call(made: Made) -> Call:
        table, counted = made.table[:, :3].contiguous(), made.starts[:, :-1].contiguous()
        ask = made.arena, made.base, made.out, made.dtype, table, made.scales, counted, _zero(made)
        return lambda: gpu.compose_chunk(*ask, block=BLOCK)

    return Work([call(made) for made in chunks], _composed(chunks[0]))


def _composed(made: Made) -> int:
    return 2 * made.base.nbytes + made.patch_bytes + made.starts.nbytes


def counting(chunks: Sequence[Made]) -> Work:
    """Count the values before each block, which reads every mask."""
    block, patches = compose.BLOCKS[METHODS["sum"]], len(chunks[0].table)
    calls = [lambda made=made: count_before(made.arena, made.table, made.size, block) for made in chunks]
    return Work(calls, patches * (chunks[0].size // 8 + 4 * (chunks[0].size // block)))


def selecting(size: int, dtype: str, density: float, seeds: Sequence[int], device: torch.device) -> Work:
    """Find what changed between two tensors, and the mask of one group: reads both once, writes mask and values."""
    n_first, n_top = int(size * (density + 0.007)), int(size * 0.007)
    pairs = []
    for seed in seeds:
        random = torch.Generator(device).manual_seed(seed)
        base = torch.randn(size, generator=random, device=device).mul_(0.02)
        tuned = base + torch.randn(size, generator=random, device=device).mul_(DELTA)
        pairs.append([part.to(TORCH_DTYPES[CODES[dtype]]).view(torch.uint8) for part in (base, tuned)])

    def find(base: torch.Tensor, tuned: torch.Tensor) -> None:
        delta = torch.empty(size, dtype=torch.float32, device=device)
        high = select.totals([select.subtract(base, tuned, (CODES[dtype], CODES[dtype]), delta)])
        select.mark(delta, high, n_first, n_top)

    calls = [lambda pair=pair: find(*pair) for pair in pairs]
    return Work(calls, 2 * pairs[0][0].nbytes + size // 8 + 4 * (n_first - n_top))


def comparing(chunks: Sequence[Made]) -> Work:
    """Measure every pair of a chunk's patches: masks and values are read once at least."""
    patches, device = len(chunks[0].table), chunks[0].arena.device
    pairs = torch.combinations(torch.arange(patches, device=device)).contiguous()
    calls = [lambda made=made: conflicts.measure_chunk(made.arena, made.table, made.size, pairs) for made in chunks]
    return Work(calls, chunks[0].patch_bytes)


def copying(moved: int, device: torch.device) -> Work:
    """Copy on the device, so that so many bytes are read and written."""
    pairs = [[torch.zeros(moved // 2, dtype=torch.uint8, device=device) for _ in range(2)] for _ in range(2)]
    return Work([lambda pair=pair: pair[1].copy_(pair[0]) for pair in pairs], moved // 2 * 2)


def _zero(made: Made) -> torch.Tensor:
    return torch.zeros(1, dtype=torch.int64, device=made.arena.device)


def measure_work(work: Work, device: torch.device) -> Sample:
    """Measure a call by the GPU's clock, or by the CPU's elsewhere: the median of several."""
    clock = _seconds_on_gpu if device.type == "cuda" else _seconds_here
    taken = [clock(call) for call, _ in zip(cycle(work.calls), range(WARM + REPEATED), strict=False)]
    return Sample(median(taken[WARM:]))


def _seconds_on_gpu(call: Call) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda._sleep(ASLEEP)
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def _seconds_here(call: Call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

"""Where chunks are measured for conflicts: on the CPU by kernels of ours, on a GPU by torch's.

    CPU   conflict_kernels.measure_chunk on the arena as it was read
    GPU   arena --copy in--> bits, float32 values where they are --> for each pair: places of both --> sums

Counts are the same integers from both. Sums are float64 of the same terms, added in another order.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from registry.breadcrumbs.composing.staging import LARGEST, STAGED, Arena, Chunk, Step
from registry.breadcrumbs.formats.checkpoint import TORCH
from registry.breadcrumbs.kernels.compose import CODES
from registry.breadcrumbs.kernels.conflicts import measure_chunk
from registry.breadcrumbs.kernels.devices import find_gpu

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

KINDS = {code: TORCH[dtype] for dtype, code in CODES.items()}


@dataclass(frozen=True)
class Measured:
    """What is known of P patches and K pairs on the same elements; the columns are those of conflict_kernels.py.

    Args:
        own: float64 [P, 2], of each patch: L1, SQUARES.
        census: int64 [P + 1], from 1 on: how many weights so many patches touch.
        counts: int64 [K, 2], of each pair: OVERLAP, OPPOSED.
        sums: float64 [K, 5], of each pair: OVERLAP_MASS, OPPOSED_MASS, DOT, FIRST_SQUARES, SECOND_SQUARES.
    """

    own: Floats
    census: Numbers
    counts: Numbers
    sums: Floats

    def add(self, other: "Measured") -> None:
        """Add what is known of other elements."""
        for name in ("own", "census", "counts", "sums"):
            ours = getattr(self, name)
            ours += getattr(other, name)


def nothing(patches: int, pairs: int) -> Measured:
    """Return what is known before anything is measured."""
    return Measured(
        np.zeros((patches, 2)), np.zeros(patches + 1, np.int64), np.zeros((pairs, 2), np.int64), np.zeros((pairs, 5))
    )


class ConflictEngine(Protocol):
    """Measures chunks that are read."""

    def step(self, patches: int) -> Step:
        """Return how long the chunks are that so many patches touch."""

    def workers(self, processors: int) -> int:
        """Return how many chunks it works on at a time, where so many processors are free."""

    def arena(self) -> Arena:
        """Return room for one chunk."""

    def measure(self, chunk: Chunk, arena: Arena, patches: int, pairs: Numbers) -> Measured:
        """Measure a chunk.

        Args:
            chunk: What is staged and read; its scales are numbers of patches.
            arena: Where it is.
            patches: How many patches touch the tensor.
            pairs: int64 [K, 2], numbers of those to compare.
        """


class CpuConflictEngine:
    """Measures on the CPU, a chunk in each thread."""

    def step(self, patches: int) -> Step:
        """Return how long chunks are."""
        return Step(STAGED, LARGEST)

    def workers(self, processors: int) -> int:
        """Return how many chunks are measured at a time."""
        return processors

    def arena(self) -> Arena:
        """Return room whose memory is touched when it is needed."""
        return Arena(2 * STAGED)

    def measure(self, chunk: Chunk, arena: Arena, patches: int, pairs: Numbers) -> Measured:
        """Measure a chunk; arguments as of `Engine.measure`."""
        found, numbers = nothing(patches, len(pairs)), chunk.scales.astype(np.int64)
        out = found.own, found.census, found.counts, found.sums
        measure_chunk(arena.bytes, chunk.size, chunk.first, chunk.table, numbers, pairs, *out)
        return found


class TorchEngine:
    """Measures on a device by torch, a few chunks at a time; what does not fit there is measured on the CPU.

    Args:
        device: The GPU; any other device of torch's gives the same.
        memory: Most bytes of its memory to use.
    """

    WORKERS = 2
    ROOM = 2**27
    """Most bytes for what is copied in for a chunk."""
    HELD, PASSING = 5, 96
    """Most bytes of an element: for each patch, its bit and its value; once, what is made of a pair and let go."""

    def __init__(self, device: torch.device, memory: int) -> None:
        self.device, self._cpu = device, CpuConflictEngine()
        share = memory // self.WORKERS
        self._room = min(self.ROOM, share // 2)
        self._left = share - self._room
        self._places = torch.arange(8, dtype=torch.uint8, device=device)

    def step(self, patches: int) -> Step:
        """Return how long chunks are: for uneven masks there is twice the room that is due."""
        return Step(self._room // 2, max(64, self._left // (self.HELD * patches + self.PASSING)))

    def workers(self, processors: int) -> int:
        """Return how many chunks are in work at a time: one is read, one is measured."""
        return self.WORKERS

    def arena(self) -> Arena:
        """Return room, pinned where a GPU copies from it."""
        return Arena(2 * STAGED, self.device.type == "cuda")

    def measure(self, chunk: Chunk, arena: Arena, patches: int, pairs: Numbers) -> Measured:
        """Measure a chunk; arguments as of `Engine.measure`."""
        found = nothing(patches, len(pairs))
        start = (chunk.base_at + chunk.length) // 64 * 64  # of the base, which comes first, nothing was read
        if not len(chunk.table):
            return found
        if arena.used - start > self._room:
            return self._cpu.measure(chunk, arena, patches, pairs)
        rows = {int(number): row for number, row in zip(chunk.scales, chunk.table.tolist(), strict=True)}
        there = arena.tensor[start : arena.used].to(self.device, non_blocking=True)
        touched = torch.zeros(chunk.size, dtype=torch.int32, device=self.device)
        bits, values, own = {}, {}, []
        for number, (mask_at, values_at, code, width, count) in rows.items():
            bits[number] = self._bits(there, mask_at - start, width, count, chunk)
            touched += bits[number]
            kind = KINDS[code]
            kept = there[values_at - start :][: count * kind.itemsize].view(kind)
            values[number] = torch.zeros(chunk.size, device=self.device).masked_scatter_(bits[number], kept.float())
            doubles = kept.double()
            own.append(torch.stack([doubles.abs().sum(), doubles.square().sum()]))
        found.own[list(rows)] = torch.stack(own).cpu().numpy()
        found.census[1:] = touched.bincount(minlength=patches + 1)[1:].cpu().numpy()
        known = [number for number, pair in enumerate(pairs.tolist()) if pair[0] in rows and pair[1] in rows]
        if known:
            made = [_measure_pair(one, two, bits, values) for one, two in pairs[known].tolist()]
            table = torch.stack(made).cpu().numpy()
            found.counts[known], found.sums[known] = table[:, :2], table[:, 2:]
        return found

    def _bits(self, there: torch.Tensor, at: int, width: int, count: int, chunk: Chunk) -> torch.Tensor:
        """Return the mask of a patch, bool [size of the chunk]."""
        if not width:
            octets = there[at : at + (chunk.size + 7) // 8]
            return (octets[:, None] >> self._places & 1).bool().view(-1)[: chunk.size]
        indices = there[at : at + width * count].view(torch.int32 if width == 4 else torch.int64)
        bits = torch.zeros(chunk.size, dtype=torch.bool, device=self.device)
        bits[indices.long() - chunk.first] = True
        return bits


def _measure_pair(one: int, two: int, bits: dict[int, torch.Tensor], values: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return the counts and sums of a pair, float64 [7]; counts are exact."""
    where = (bits[one] & bits[two]).nonzero().view(-1)
    a, b = values[one][where].double(), values[two][where].double()
    less, product = torch.minimum(a.abs(), b.abs()), a * b
    against = product < 0
    return torch.stack(
        [
            torch.full((), where.numel(), dtype=torch.float64, device=where.device),
            against.sum().double(),
            less.sum(),
            (less * against).sum(),
            product.sum(),
            a.square().sum(),
            b.square().sum(),
        ]
    )


def open_engine(device: str, memory: int | None) -> ConflictEngine:
    """Return the engine of a device, `cpu` or `cuda`; `memory` is as of `find_gpu`."""
    return CpuConflictEngine() if device == "cpu" else TorchEngine(*find_gpu(memory))

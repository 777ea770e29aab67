"""Conflict engines, which measure staged chunks: what every engine does, and the CPU's.

    arena as it was read --> kernels.conflicts.measure_chunk --> counts and sums

torch_engine.py and cuda_engine.py have the engines for GPUs. Counts are the same integers from all; sums are float64 of
the same terms, added in another order.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.composing.staging import CHUNK_BYTES, MAX_CHUNK_ELEMENTS, Arena, Chunk, Step
from registry.breadcrumbs.kernels.conflicts import measure_chunk

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What P patches and K pairs do to the same elements; kernels/conflicts.py names the columns.

    Args:
        own: float64 [P, 2], of each patch: L1, SQUARES.
        census: int64 [P + 1]: how many weights are touched by exactly 1, 2, ... patches; element 0 is not filled in.
        counts: int64 [K, 2], of each pair: OVERLAP, OPPOSED.
        sums: float64 [K, 5], of each pair: OVERLAP_MASS, OPPOSED_MASS, DOT, FIRST_SQUARES, SECOND_SQUARES.
    """

    own: Floats
    census: Numbers
    counts: Numbers
    sums: Floats

    def add(self, other: "Measured") -> None:
        """Add the measures of other elements."""
        for name in ("own", "census", "counts", "sums"):
            ours = getattr(self, name)
            ours += getattr(other, name)


def zeros(patches: int, pairs: int) -> Measured:
    """Return measures of no elements, to add others to."""
    return Measured(
        np.zeros((patches, 2)), np.zeros(patches + 1, np.int64), np.zeros((pairs, 2), np.int64), np.zeros((pairs, 5))
    )


class ConflictEngine(Protocol):
    """Measures chunks that are read."""

    def step(self, patches: int) -> Step:
        """Return how long the chunks of a tensor are that so many patches touch."""

    def workers(self, processors: int) -> int:
        """Return how many chunks the engine works on at a time, where so many processors are free."""

    def arena(self) -> Arena:
        """Return room for one chunk."""

    def measure(self, chunk: Chunk, arena: Arena, patches: int, pairs: Numbers) -> Measured:
        """Measure a chunk.

        Args:
            chunk: The chunk, staged and read; in place of scales it has the numbers of the patches.
            arena: The arena in which it is.
            patches: How many patches touch the tensor.
            pairs: int64 [K, 2], numbers of those to compare.
        """


class CpuConflictEngine:
    """Measures on the CPU, a chunk in each thread."""

    def step(self, patches: int) -> Step:
        """Return how long chunks are."""
        return Step(CHUNK_BYTES, MAX_CHUNK_ELEMENTS)

    def workers(self, processors: int) -> int:
        """Return how many chunks are measured at a time."""
        return processors

    def arena(self) -> Arena:
        """Return room whose memory is touched when it is needed."""
        return Arena(2 * CHUNK_BYTES)

    def measure(self, chunk: Chunk, arena: Arena, patches: int, pairs: Numbers) -> Measured:
        """Measure a chunk; arguments as of `ConflictEngine.measure`."""
        measured, numbers = zeros(patches, len(pairs)), chunk.scales.astype(np.int64)
        out = measured.own, measured.census, measured.counts, measured.sums
        measure_chunk(arena.bytes, chunk.size, chunk.first, chunk.table, numbers, pairs, *out)
        return measured

"""Where chunks are composed: one engine for the CPU, one for a GPU, the same bytes from both."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from registry.breadcrumbs.kernels import CODES, PAD, compose_chunk
from registry.breadcrumbs.lanes import Phases
from registry.breadcrumbs.staging import LARGEST, STAGED, Arena, Chunk


@dataclass
class Buffers:
    """What a chunk needs: room for what is read, and for what comes out."""

    arena: Arena
    out: Arena


class Engine(Protocol):
    """Composes chunks that are staged."""

    staged: int
    """Bytes that a chunk is to take, about."""

    def depth(self, workers: int) -> int:
        """Return how many chunks it works on at a time, where `workers` processors are free."""

    def buffers(self) -> Buffers:
        """Return buffers for one chunk."""

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""


class CpuEngine:
    """Composes on the CPU, one chunk in each thread."""

    staged = STAGED

    def __init__(self, phases: Phases) -> None:
        self.phases = phases

    def depth(self, workers: int) -> int:
        """Return how many chunks are composed at a time."""
        return workers

    def buffers(self) -> Buffers:
        """Return buffers whose memory is touched when it is needed."""
        return Buffers(Arena(2 * STAGED), Arena(8 * LARGEST + PAD))

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""
        arena, code = buffers.arena.bytes, CODES[chunk.spec.dtype]
        with self.phases.of("kernel"):
            return int(
                compose_chunk(
                    arena,
                    chunk.base_at,
                    code,
                    chunk.size,
                    chunk.first,
                    chunk.table,
                    chunk.scales,
                    buffers.out.bytes,
                )
            )


@contextmanager
def open_engine(device: str, device_memory: int | None, phases: Phases) -> Iterator[Engine]:
    """Open the engine of a device, `cpu` or `cuda`."""
    yield CpuEngine(phases)

"""Where chunks are composed: on the CPU, or on a GPU through pinned buffers; the same bytes from both.

    CPU   the arena as it was read --> kernels.compose_chunk --> out
    GPU   the arena as it was read --copy in--> gpu.compose_chunk --copy out--> out        one stream a chunk in work

What is in work on a GPU at a time, and so its memory, is fixed when the engine is opened: a chunk that turns out to
need more room than that is composed on the CPU.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.residents import RESIDENTS, Resident
from registry.breadcrumbs.composing.staging import LARGEST, STAGED, Arena, Chunk, Step
from registry.breadcrumbs.formats.header import DTYPES
from registry.breadcrumbs.kernels.compose import CODES, PAD, block_starts, compose_chunk
from registry.breadcrumbs.kernels.devices import find_gpu


@dataclass
class Buffers:
    """What a chunk needs: room for what is read, and for what comes out."""

    arena: Arena
    out: Arena


class Engine(Protocol):
    """Composes chunks that are staged.

    Attributes:
        step: How long they are.
        resident: What is known of the base from earlier compositions, where something is.
    """

    step: Step
    resident: Resident | None

    def depth(self, workers: int) -> int:
        """Return how many chunks it works on at a time, where `workers` processors are free."""

    def buffers(self) -> Buffers:
        """Return buffers for one chunk."""

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""


class CpuEngine:
    """Composes on the CPU, one chunk in each thread."""

    step = Step(STAGED, LARGEST)
    resident: Resident | None = None

    def __init__(self, phases: Phases) -> None:
        self.phases = phases

    def depth(self, workers: int) -> int:
        """Return how many chunks are composed at a time."""
        return workers

    def buffers(self) -> Buffers:
        """Return buffers whose memory is touched when it is needed."""
        return Buffers(Arena(2 * STAGED), Arena(STAGED))

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""
        arena, out, code = buffers.arena.bytes, buffers.out.bytes, CODES[chunk.spec.dtype]
        with self.phases.of("kernel"):
            return int(
                compose_chunk(arena, chunk.base_at, code, chunk.size, chunk.first, chunk.table, chunk.scales, out)
            )


class GpuEngine:
    """Composes on a GPU, a few chunks at a time, each with a stream and buffers of its own.

    Args:
        device: The GPU; a CPU only where Triton interprets.
        memory: Most bytes of its memory to use.
        phases: Where time is counted: that of copies and kernels as the GPU has it.
        base, base_size: Weights digest and bytes of the base, which stays there if it fits into what is left.
    """

    DEPTH = 3
    ROOM = 2**27
    """Most bytes for what is copied in for a chunk."""

    def __init__(self, device: torch.device, memory: int, phases: Phases, base: str, base_size: int) -> None:
        from registry.breadcrumbs.kernels import gpu

        self.gpu, self.device, self.phases, self.cpu = gpu, device, phases, CpuEngine(phases)
        share = memory // self.DEPTH  # arena and result of one chunk, the arena with room for uneven masks
        self._out_room = min(2**26, share // 4)
        self._arena_room = min(self.ROOM, share - self._out_room)
        self.step = Step(self._arena_room // 2, self._out_room // 8)
        self._threads = threading.local()
        left = memory - self.DEPTH * (self._arena_room + self._out_room)
        self.resident = RESIDENTS.use(base, base_size, left, device)

    def depth(self, workers: int) -> int:
        """Return how many chunks are on the GPU at a time: one copied in, one computed, one copied out."""
        return self.DEPTH

    def buffers(self) -> Buffers:
        """Return pinned buffers."""
        pinned = self.device.type == "cuda"
        return Buffers(Arena(self.step.staged, pinned), Arena(STAGED, pinned))

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""
        arena, block = buffers.arena, self.gpu.BLOCK
        count, blocks = len(chunk.table), -(-chunk.size // block)
        starts = np.empty((count, blocks), np.int32)
        table = np.ascontiguousarray(chunk.table[:, :3])
        sparse: list[tuple[int, int]] = []  # which patches have indices, and where their bits are to be
        bits = (chunk.size + 31) // 32 * 4
        end = arena.used
        for number, (mask_at, _, _, width, entries) in enumerate(chunk.table.tolist()):
            if width:
                table[number, 0] = end
                sparse.append((number, end))
                end += -(-(bits + PAD) // 64) * 64
                indices = np.frombuffer(arena.view, f"<i{width}", entries, mask_at)
                starts[number] = np.searchsorted(indices, chunk.first + np.arange(blocks) * block)
            else:
                block_starts(arena.bytes, mask_at, chunk.size, block, starts[number])
        extra = starts.nbytes + table.nbytes + chunk.scales.nbytes + 4 * PAD
        kept, start = self._kept(chunk), chunk.first * DTYPES[chunk.spec.dtype]
        read = slice(chunk.base_at, chunk.base_at + chunk.length)
        held = self.resident is not None and self.resident.holds(chunk.tensor)
        if end + extra > self._arena_room or chunk.length > self._out_room:
            if kept is not None and held:
                arena.tensor[read].copy_(kept[start : start + chunk.length])
            elif kept is not None:
                kept[start : start + chunk.length].copy_(arena.tensor[read])
            return self.cpu.compose(chunk, buffers)
        work = self._work()
        with work.stream():
            work.mark()
            there, base = work.arena, work.arena[read]
            begin = read.stop if held else 0  # the base comes first in an arena
            there[begin : arena.used].copy_(arena.tensor[begin : arena.used], non_blocking=True)
            if kept is not None and held:
                base = kept[start : start + chunk.length]
            elif kept is not None:
                kept[start : start + chunk.length].copy_(base)
            rows, scales, before = (torch.from_numpy(part).to(self.device) for part in (table, chunk.scales, starts))
            work.mark()
            for number, at in sparse:
                mask_at, width, entries = (int(chunk.table[number, column]) for column in (0, 3, 4))
                mask = there[at : at + bits].view(torch.int32)
                mask.zero_()
                kind = torch.int32 if width == 4 else torch.int64
                self.gpu.set_bits(there[mask_at : mask_at + width * entries].view(kind), mask, chunk.first)
            work.lost.zero_()
            out = work.out[: chunk.length]
            self.gpu.compose_chunk(there, base, out, chunk.spec.dtype, rows, scales, before, work.lost)
            work.mark()
            buffers.out.tensor[: chunk.length].copy_(out, non_blocking=True)
            lost = work.lost.to("cpu", non_blocking=True)
            work.mark()
            work.finish(self.phases)
        return int(lost)

    def _kept(self, chunk: Chunk) -> torch.Tensor | None:
        """Return where the chunk's tensor stays, or is to stay."""
        if self.resident is None:
            return None
        return self.resident.room_for(chunk.tensor, chunk.spec.numel * DTYPES[chunk.spec.dtype])

    def _work(self) -> "_Work":
        if not hasattr(self._threads, "work"):
            self._threads.work = _Work(self.device, self._arena_room, self._out_room)
        work: _Work = self._threads.work
        return work


class _Work:
    """Stream and buffers on the GPU of one thread, and the marks that its times are taken from."""

    def __init__(self, device: torch.device, arena_room: int, out_room: int) -> None:
        self.arena = torch.empty(arena_room, dtype=torch.uint8, device=device)
        self.out = torch.empty(out_room, dtype=torch.uint8, device=device)
        self.lost = torch.zeros(1, dtype=torch.int64, device=device)
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._marks: list[Any] = []

    def stream(self) -> Any:
        """Return a context in which work goes to the stream."""
        self._marks = []
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def mark(self) -> None:
        """Note the time at which the stream gets here."""
        if self._stream:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(self._stream)
            self._marks.append(event)

    def finish(self, phases: Phases) -> None:
        """Wait for the stream, and count the seconds between the marks."""
        if not self._stream:
            return
        self._stream.synchronize()
        for phase, (before, after) in zip(("H2D", "kernel", "D2H"), pairwise(self._marks), strict=True):
            phases.add(phase, before.elapsed_time(after) / 1000)


@contextmanager
def open_engine(device: str, device_memory: int | None, phases: Phases, base: str, base_size: int) -> Iterator[Engine]:
    """Open the engine of a device, `cpu` or `cuda`.

    Args:
        device: Where to compose.
        device_memory: Most bytes of a GPU's memory; the smaller of 4 GiB and a quarter of what is free when None.
        phases: Where time is counted.
        base, base_size: Weights digest and bytes of the base.
    """
    if device == "cpu":
        yield CpuEngine(phases)
        return
    try:
        yield GpuEngine(*find_gpu(device_memory), phases, base, base_size)
    except BaseException:
        RESIDENTS.drop(base)  # whatever it was
        raise

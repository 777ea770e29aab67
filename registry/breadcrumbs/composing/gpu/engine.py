"""The engine that composes chunks on a GPU, through pinned buffers, to the CPU's bytes.

    arena as it was read --copy in--> kernel --copy out--> out        a stream for each chunk in work

How many chunks are in work at a time, and so the memory they take, is fixed when the engine is opened: a chunk that
turns out to need more room than that is composed on the CPU.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch

from registry.breadcrumbs.composing.engines import Buffers, CpuEngine, Rule
from registry.breadcrumbs.composing.gpu.launches import pick_launch
from registry.breadcrumbs.composing.gpu.tensor_arena import TensorArena
from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.residents import RESIDENTS
from registry.breadcrumbs.composing.staging import CHUNK_BYTES, Chunk, Step
from registry.breadcrumbs.formats.header import DTYPES
from registry.breadcrumbs.kernels.devices import find_gpu


class GpuEngine:
    """Composes on a GPU, a few chunks at a time, each with a stream and buffers of its own.

    Args:
        device: The GPU; a CPU only where Triton interprets.
        memory: Most bytes of its memory to use.
        phases: Where time is counted: that of copies and kernels as the GPU has it.
        rule: How patches are combined.
        base, base_size: Weights digest and bytes of the base, which stays there if it fits into what is left.
    """

    CHUNKS = 3
    """Chunks on the GPU at a time: one copied in, one computed, one copied out."""

    ARENA_BYTES = 2**27
    """Most bytes that are copied in for a chunk."""

    OUT_BYTES = 2**26
    """Most bytes of a chunk's result."""

    def __init__(
        self, device: torch.device, memory: int, phases: Phases, rule: Rule, base: str, base_size: int
    ) -> None:
        self.device, self.phases, self.rule, self.cpu = device, phases, rule, CpuEngine(phases, rule)
        share = memory // self.CHUNKS  # arena and result of one chunk, the arena with room for uneven masks
        self._out_room = min(self.OUT_BYTES, share // 4)
        self._arena_room = min(self.ARENA_BYTES, share - self._out_room)
        self.step = Step(self._arena_room // 2, self._out_room // 8)
        self._threads = threading.local()
        left = memory - self.CHUNKS * (self._arena_room + self._out_room)
        self.resident = RESIDENTS.use(base, base_size, left, device)
        self._launch = pick_launch(device)

    def depth(self, workers: int) -> int:
        """Return how many chunks are on the GPU at a time."""
        return self.CHUNKS

    def buffers(self) -> Buffers:
        """Return pinned buffers."""
        pinned = self.device.type == "cuda"
        return Buffers(TensorArena(self.step.staged, pinned), TensorArena(CHUNK_BYTES, pinned))

    def compose(self, chunk: Chunk, buffers: Buffers) -> int:
        """Compose a chunk into `buffers.out`; return how many results are not finite where the base was."""
        arena = buffers.arena
        assert isinstance(arena, TensorArena) and isinstance(buffers.out, TensorArena)
        launch = self._launch(chunk, arena, self.rule)
        kept, start = self._kept(chunk), chunk.first * DTYPES[chunk.spec.dtype]
        read = slice(chunk.base_at, chunk.base_at + chunk.length)
        held = self.resident is not None and self.resident.holds(chunk.tensor)
        if launch.end + launch.extra > self._arena_room or chunk.length > self._out_room:
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
            launch.upload(self.device)
            work.mark()
            work.lost.zero_()
            out = work.out[: chunk.length]
            launch.compose(there, base, out, work.lost)
            work.mark()
            buffers.out.tensor[: chunk.length].copy_(out, non_blocking=True)
            lost = work.lost.to("cpu", non_blocking=True)
            work.mark()
            work.finish(self.phases)
        return int(lost)

    def _kept(self, chunk: Chunk) -> torch.Tensor | None:
        """Return the memory in which the chunk's tensor stays, or is to stay; None where nothing stays."""
        if self.resident is None:
            return None
        return self.resident.room_for(chunk.tensor, chunk.spec.numel * DTYPES[chunk.spec.dtype])

    def _work(self) -> "_Work":
        if not hasattr(self._threads, "work"):
            self._threads.work = _Work(self.device, self._arena_room, self._out_room)
        work: _Work = self._threads.work
        return work


class _Work:
    """A thread's stream and buffers on the GPU, and the marks from which times are taken."""

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
        """Record the time at which the stream gets here."""
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
def open_gpu_engine(
    device_memory: int | None, phases: Phases, rule: Rule, base: str, base_size: int
) -> Iterator[GpuEngine]:
    """Open the GPU's engine; on an error, what stays of the base on the GPU is dropped.

    Args:
        device_memory: Most bytes of its memory; the smaller of 4 GiB and a quarter of what is free when None.
        phases: Where time is counted.
        rule: How patches are combined.
        base, base_size: Weights digest and bytes of the base.
    """
    try:
        yield GpuEngine(*find_gpu(device_memory), phases, rule, base, base_size)
    except BaseException:
        RESIDENTS.drop(base)
        raise

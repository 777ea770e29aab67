"""Works: a stream and buffers on the GPU for one chunk at a time, and the marks from which times are taken."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from registry.breadcrumbs.composing.gpu.tensor_arena import TensorArena
from registry.breadcrumbs.composing.lanes import Phases

DTYPES = {np.dtype(np.int64): torch.int64, np.dtype(np.float64): torch.float64, np.dtype(np.int32): torch.int32}
"""torch's dtypes of what a launch needs besides an arena."""


class Work:
    """A stream and its buffers.

    Args:
        device: The GPU; a CPU only where Triton interprets.
        arena_room, out_room: Bytes of both buffers.

    Attributes:
        arena, out: uint8, on the GPU.
    """

    def __init__(self, device: torch.device, arena_room: int, out_room: int) -> None:
        self.device = device
        self.arena = torch.empty(arena_room, dtype=torch.uint8, device=device)
        self.out = torch.empty(out_room, dtype=torch.uint8, device=device)
        pinned = device.type == "cuda"
        self._lost = torch.zeros(1, dtype=torch.int64, device=device)
        self._found = torch.zeros(1, dtype=torch.int64, pin_memory=pinned)
        self._parts, self._there = TensorArena(2**12, pinned), self.arena[:0]
        self._stream: Any = torch.cuda.Stream(device) if pinned else None  # type: ignore[no-untyped-call]
        self._marks: list[Any] = []

    @contextmanager
    def stream(self) -> Iterator[None]:
        """Have what is done inside go to the stream; after an error, wait until it does nothing with its buffers."""
        self._marks = []
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            try:
                yield
            except BaseException:
                if self._stream:
                    with suppress(RuntimeError):  # the error that is on its way already, say
                        self._stream.synchronize()
                raise

    def mark(self) -> None:
        """Record the time at which the stream gets here."""
        if self._stream:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record(self._stream)
            self._marks.append(event)

    def send(self, parts: Sequence[npt.NDArray[Any]]) -> list[torch.Tensor]:
        """Copy arrays to the GPU in one go; nothing waits for it, and they hold until the next are sent."""
        arena = self._parts
        arena.clear()
        places = [arena.place(part.nbytes) for part in parts]
        for part, at in zip(parts, places, strict=True):
            arena.bytes[at : at + part.nbytes] = np.ascontiguousarray(part).view(np.uint8).reshape(-1)
        if arena.used > len(self._there):
            self._there = torch.empty(arena.bytes.size, dtype=torch.uint8, device=self.device)
        self._there[: arena.used].copy_(arena.tensor[: arena.used], non_blocking=True)
        return [
            self._there[at : at + part.nbytes].view(DTYPES[part.dtype]).view(part.shape)
            for part, at in zip(parts, places, strict=True)
        ]

    def lost(self) -> torch.Tensor:
        """Return a count of 0 on the GPU: int64 [1]."""
        return self._lost.zero_()

    def finish(self, phases: Phases) -> int:
        """Wait for the stream, count the seconds between the marks, and return what was counted as lost."""
        self._found.copy_(self._lost, non_blocking=True)
        if self._stream:
            self._stream.synchronize()
            for phase, (before, after) in zip(("H2D", "kernel", "D2H"), pairwise(self._marks), strict=True):
                phases.add(phase, before.elapsed_time(after) / 1000)
        return int(self._found)

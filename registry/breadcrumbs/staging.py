"""One chunk of one tensor, read into one buffer: the base's bytes, and each patch's mask and values.

    arena   | base | mask of patch 0 | values of patch 0 | mask of patch 1 | ...      each part on a 64-byte boundary
    table   one row of offsets for each patch that touches the chunk; one of `scales`

A mask says how many values precede the next chunk, so masks are staged in order, chunk after chunk; the rest of a
chunk may be read at any time, by any thread. What a kernel trusts is settled here, on the bytes in the buffer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from registry.breadcrumbs.checkpoint import Checkpoint, TensorSpec, fill
from registry.breadcrumbs.header import DTYPES, show
from registry.breadcrumbs.kernels import CODES, PAD, count_bits, count_indices, read_parts
from registry.breadcrumbs.patchfile import Patch
from registry.errors import InvalidInput, InvalidPatch

Octets = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

ALIGN = 64
STAGED = 8 * 2**20
"""Bytes that a chunk is to take, about, with everything that is read for it."""

SMALLEST, LARGEST = 2**15, 2**20
"""Fewest and most elements of a chunk."""


@dataclass(frozen=True)
class Step:
    """How long chunks are: `staged` bytes, about, with all that is read for them, but at most `largest` elements."""

    staged: int
    largest: int


class Arena:
    """A buffer that grows and is used again and again; its memory is touched first where it is first needed.

    Args:
        size: Bytes to begin with.
        pinned: Whether a GPU is to copy from it.
    """

    def __init__(self, size: int, pinned: bool = False) -> None:
        self.pinned = pinned
        self.used = 0
        self._make(size)

    def _make(self, size: int) -> None:
        self.tensor = torch.empty(size, dtype=torch.uint8, pin_memory=self.pinned)
        self.bytes: Octets = self.tensor.numpy()
        self.view = memoryview(self.bytes.data)

    def clear(self) -> None:
        """Forget what is in it."""
        self.used = 0

    def place(self, length: int) -> int:
        """Make room for `length` bytes and PAD more; return their offset."""
        at = self.used
        self._use(at + _room(length))
        return at

    def place_all(self, lengths: Numbers) -> Numbers:
        """Make room for several parts; return their offsets, int64 [n]."""
        rooms: Numbers = _room(lengths)
        ends = self.used + np.cumsum(rooms)
        starts: Numbers = ends - rooms
        if ends.size:
            self._use(int(ends[-1]))
        return starts

    def _use(self, end: int) -> None:
        if end > self.bytes.size:
            old = self.bytes
            self._make(max(2 * old.size, end))
            self.bytes[: self.used] = old[: self.used]
        self.used = end


def _room(length: Any) -> Any:
    """Return bytes for `length` and PAD more, up to the next boundary."""
    return (length + PAD + ALIGN - 1) // ALIGN * ALIGN


@dataclass
class Chunk:
    """What is staged of a tensor's elements first..stop - 1.

    Args:
        tensor, spec: The tensor, its dtype and shape.
        first, stop: The elements.
        base_at: Where the base's bytes are to be in the arena.
        table, scales: int64 [P, 5] and float64 [P] of the patches that touch the chunk, as `compose_chunk` has them.
        parts: What is still to be read: int64 [n, 4], as `read_parts` has it.
    """

    tensor: str
    spec: TensorSpec
    first: int
    stop: int
    base_at: int
    table: Numbers
    scales: npt.NDArray[np.float64]
    parts: Numbers

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.first

    @property
    def length(self) -> int:
        """Bytes of the base."""
        return self.size * DTYPES[self.spec.dtype]

    def read_rest(self, arena: Arena) -> None:
        """Read the base's bytes and every patch's values into their places.

        Raises:
            InvalidInput: A file has become shorter.
        """
        read_all(self.parts, arena, self.tensor)


def read_all(parts: Numbers, arena: Arena, tensor: str) -> None:
    """Read parts of files into an arena.

    Raises:
        InvalidInput: A file has become shorter since it was opened.
        OSError: The disk fails.
    """
    failed = int(read_parts(parts, arena.bytes))
    if failed >= 0:
        file, at, to, length = (int(number) for number in parts[failed])
        view = arena.view[to : to + length]
        fill(view, file, at, f"The file that holds {show(tensor)}", InvalidInput)  # says what is wrong


class Stager:
    """Stages the chunks of one tensor, in order.

    Args:
        base: The base.
        tensor: The tensor's name.
        touching: The patches that touch it, ascending by sha256, each with its scale.
        step: How long its chunks are.
    """

    def __init__(
        self,
        base: Checkpoint,
        tensor: str,
        touching: Sequence[tuple[Patch, float]],
        step: Step = Step(STAGED, LARGEST),
    ) -> None:
        self.tensor, self.spec = tensor, base.tensors[tensor]
        self._file, self._at = base.place(tensor)
        masks = [patch.mask_entry(tensor) for patch, _ in touching]
        values = [patch.value_entry(tensor) for patch, _ in touching]
        self._entries = [mask.name for mask in masks]
        self._scales = np.array([scale for _, scale in touching], np.float64)
        self._files = np.array([patch.fileno() for patch, _ in touching], np.int64)
        self._masks_at = np.array([mask.start for mask in masks], np.int64)
        self._values_at = np.array([value.start for value in values], np.int64)
        self._nnz = np.array([value.shape[0] for value in values], np.int64)
        self._index_widths = np.array([0 if mask.dtype == "U8" else DTYPES[mask.dtype] for mask in masks], np.int64)
        self._widths = np.array([DTYPES[value.dtype] for value in values], np.int64)
        self._codes = np.array([CODES[value.dtype] for value in values], np.int64)
        self._bits = np.flatnonzero(self._index_widths == 0)
        self._indices = np.flatnonzero(self._index_widths)
        self._used = np.zeros(len(touching), np.int64)
        self._last = np.full(len(touching), -1, np.int64)
        width = DTYPES[self.spec.dtype]
        per_element = 2 * width + len(touching) / 8 + float((self._nnz * self._widths).sum()) / self.spec.numel
        fitting = 1 << int(step.staged / per_element).bit_length() - 1
        self.step = max(64, min(max(SMALLEST, fitting), 1 << step.largest.bit_length() - 1))

    def stage(self, arena: Arena, first: int, stop: int, with_base: bool = True) -> Chunk:
        """Stage the masks of elements first..stop - 1, which follow those staged before.

        Without `with_base` there is room for the base's bytes, but they are not to be read.

        Raises:
            InvalidPatch: Indices do not increase, padding is set, or a mask and its values differ in number; so no
                kernel ever leaves the chunk.
        """
        arena.clear()
        width = DTYPES[self.spec.dtype]
        length = (stop - first) * width
        base_at = arena.place(length)
        masks_at, counts = np.zeros_like(self._used), np.zeros_like(self._used)
        if self._bits.size:
            masks_at[self._bits], counts[self._bits] = self._stage_bits(arena, first, stop)
        for number in self._indices:
            masks_at[number], counts[number] = self._stage_indices(arena, int(number), first, stop)
        starts = self._values_at + self._used * self._widths
        self._used += counts
        short = self._used != self._nnz if stop == self.spec.numel else self._used > self._nnz
        if short.any():
            raise InvalidPatch(f"The mask and values of {show(self.tensor)} differ in number.", field=self.tensor)
        sizes = counts * self._widths
        values_at = arena.place_all(sizes)
        table = np.stack([masks_at, values_at, self._codes, self._index_widths, counts], axis=1)
        parts = np.stack([self._files, starts, values_at, sizes], axis=1)
        base_part = np.array([[self._file, self._at + first * width, base_at, length]][: int(with_base)], np.int64)
        touched = counts > 0
        return Chunk(
            self.tensor,
            self.spec,
            first,
            stop,
            base_at,
            table[touched],
            self._scales[touched],
            np.concatenate([base_part.reshape(-1, 4), parts[touched]]),
        )

    def _stage_bits(self, arena: Arena, first: int, stop: int) -> tuple[Numbers, Numbers]:
        """Read the bitmasks; return where they are and how many bits of each are set."""
        length = (stop - first + 7) // 8
        sizes = np.full(self._bits.size, length, np.int64)
        places, counts = arena.place_all(sizes), np.zeros(self._bits.size, np.int64)
        files, starts = self._files[self._bits], self._masks_at[self._bits] + first // 8
        read_all(np.stack([files, starts, places, sizes], axis=1), arena, self.tensor)
        count_bits(arena.bytes, places, length, counts)
        if stop == self.spec.numel and stop % 8:
            for number in np.flatnonzero(arena.bytes[places + length - 1] >> stop % 8):
                entry = self._entries[self._bits[number]]
                raise InvalidPatch(f"Entry {show(entry)}: a padding bit after its {stop} bits is set.", field=entry)
        return places, counts

    def _stage_indices(self, arena: Arena, number: int, first: int, stop: int) -> tuple[int, int]:
        """Read indices until one belongs to a later chunk; return where they are and how many belong to this one."""
        width, used = int(self._index_widths[number]), int(self._used[number])
        most = min(int(self._nnz[number]) - used, stop - first)
        at, count, read = arena.place(most * width), 0, 0
        while count == read < most:
            more = min(most - read, (stop - first) // 64 + 64)
            to = at + read * width
            start = int(self._masks_at[number]) + (used + read) * width
            read_all(np.array([[self._files[number], start, to, more * width]], np.int64), arena, self.tensor)
            found = int(count_indices(arena.bytes, to, width, more, first, stop, self._last[number]))
            if found < 0:
                entry = self._entries[number]
                raise InvalidPatch(f"Entry {show(entry)}: its indices do not strictly increase.", field=entry)
            if found:
                self._last[number] = int.from_bytes(arena.view[to + (found - 1) * width :][:width], "little")
            count, read = count + found, read + more
        return at, count

"""Chunks: elements of one tensor, with all that is read for them in one buffer.

    arena   | base | mask of patch 0 | values of patch 0 | mask of patch 1 | ...      each part on a 64-byte boundary
    table   a row of offsets for each patch that touches the chunk, and its scale in `scales`

A mask says how many values precede the next chunk, so masks are staged in order, chunk after chunk; the rest of a
chunk may be read at any time, by any thread. To begin inside a tensor, `seek` finds how many values come before.
Kernels trust what they are given, so it is checked here, on the bytes in the buffer.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.composing.ranks import Ranks
from registry.breadcrumbs.formats.arrays import Octets
from registry.breadcrumbs.formats.blocks import fill
from registry.breadcrumbs.formats.header import DTYPES, TensorSpec, show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.kernels.constants import CODES, FILE, INDEX_WIDTH, MASK, NNZ, PAD, WIDTH
from registry.breadcrumbs.kernels.staging import count_indices, lay_out, read_masks, read_parts
from registry.errors import InvalidInput, InvalidPatch

Numbers = npt.NDArray[np.int64]

ALIGN = 64
"""Bytes of a cache line, on whose boundaries the parts of an arena start."""

CHUNK_BYTES = 8 * 2**20
"""About how many bytes a chunk takes, with everything that is read for it."""

MIN_CHUNK_ELEMENTS, MAX_CHUNK_ELEMENTS = 2**15, 2**20
"""Fewest and most elements of a chunk."""


class Placed(Protocol):
    """Tensors and their places in files, such as a checkpoint's."""

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        """Return dtype and shape of every tensor."""

    def place(self, name: str) -> tuple[int, int]:
        """Return the descriptor of the file that holds a tensor, and the byte at which it starts."""


@dataclass(frozen=True)
class Step:
    """How long chunks are.

    Args:
        staged: About how many bytes a chunk takes, with all that is read for it.
        largest: Most elements of a chunk.
    """

    staged: int
    largest: int


class Arena:
    """A buffer that grows and is used again and again; its memory is touched first where it is first needed.

    Args:
        size: Bytes to begin with.

    Attributes:
        bytes: uint8, all of the buffer.
        view: The same bytes.
        used: How many of them are in use.
    """

    def __init__(self, size: int) -> None:
        self.used = 0
        self._grow(size)

    def _grow(self, size: int) -> None:
        self.bytes = self.allocate(size)
        self.view = memoryview(self.bytes.data)

    def allocate(self, size: int) -> Octets:
        """Return memory that starts on a cache line: uint8 [size]."""
        memory = np.empty(size + ALIGN, np.uint8)
        start = -memory.ctypes.data % ALIGN
        return memory[start : start + size]

    def clear(self) -> None:
        """Forget what is in it."""
        self.used = 0

    def place(self, length: int) -> int:
        """Make room for `length` bytes and PAD more; return their offset."""
        at = self.used
        self.use(at + room(length))
        return at

    def use(self, end: int) -> None:
        """Make room up to byte `end`."""
        if end > self.bytes.size:
            old = self.bytes
            self._grow(max(2 * old.size, end))
            self.bytes[: self.used] = old[: self.used]
        self.used = end


def room(length: int) -> int:
    """Return bytes for `length` and PAD more, up to the next boundary."""
    return (length + PAD + ALIGN - 1) // ALIGN * ALIGN


@dataclass
class Chunk:
    """Elements first..stop - 1 of a tensor, staged.

    Args:
        tensor, spec: The tensor, its dtype and shape.
        first, stop: The elements.
        base_at: Where the base's bytes are to be in the arena.
        table, scales: int64 [P, 5] and float64 [P] of the patches that touch the chunk, as `compose_chunk` has them.
        parts: What is still to be read: int64 [n, 4], as `read_parts` has it.
        numbers: int64 [P], which of the patches that touch the tensor each row of the table is about.
        before: int64 [P], how many values of each come before the chunk.
    """

    tensor: str
    spec: TensorSpec
    first: int
    stop: int
    base_at: int
    table: Numbers
    scales: npt.NDArray[np.float64]
    parts: Numbers
    numbers: Numbers
    before: Numbers

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.first

    @property
    def length(self) -> int:
        """Bytes of the base."""
        return self.size * DTYPES[self.spec.dtype]

    def read_rest(self, arena: Arena) -> None:
        """Read the base's bytes and every patch's values into their places, unless they are read.

        Raises:
            InvalidInput: A file has become shorter since it was opened.
        """
        read_all(self.parts, arena, self.tensor)
        self.parts = self.parts[:0]


def read_all(parts: Numbers, arena: Arena, tensor: str) -> None:
    """Read parts of files into an arena.

    Raises:
        InvalidInput: A file has become shorter since it was opened.
        OSError: The disk fails.
    """
    while (failed := int(read_parts(parts, arena.bytes))) >= 0:
        file, at, to, length = (int(number) for number in parts[failed])
        view = arena.view[to : to + length]
        # Reads once more, and raises what is wrong if that fails as well.
        fill(view, file, at, f"The file that holds {show(tensor)}", InvalidInput)
        parts = parts[failed + 1 :]


class Stager:
    """Stages the chunks of one tensor, in order, from its first element on or from where `seek` says.

    Args:
        base: The base.
        tensor: The tensor's name.
        touching: The patches that touch it, ascending by sha256, each with its scale.
        step: How long its chunks are.
    """

    def __init__(
        self,
        base: Placed,
        tensor: str,
        touching: Sequence[tuple[Patch, float]],
        step: Step = Step(CHUNK_BYTES, MAX_CHUNK_ELEMENTS),
    ) -> None:
        self.tensor, self.spec = tensor, base.tensors[tensor]
        self._file, self._at = base.place(tensor)
        rows = []
        for patch, _ in touching:
            mask, values = patch.mask_entry(tensor), patch.value_entry(tensor)
            index_width = 0 if mask.dtype == "U8" else DTYPES[mask.dtype]
            width, nnz = DTYPES[values.dtype], values.shape[0]
            rows.append((patch.fileno(), mask.start, values.start, CODES[values.dtype], width, index_width, nnz))
        self._entries = [patch.mask_entry(tensor).name for patch, _ in touching]
        self._sources = np.array(rows, np.int64).reshape(-1, 7)
        self._scales = np.array([scale for _, scale in touching], np.float64)
        self._bits = np.flatnonzero(self._sources[:, INDEX_WIDTH] == 0).tolist()
        self._indices = np.flatnonzero(self._sources[:, INDEX_WIDTH]).tolist()
        self._nnz = self._sources[:, NNZ]
        self._used = np.zeros(len(touching), np.int64)
        self._last = [-1] * len(touching)
        values_bytes = float((self._nnz * self._sources[:, WIDTH]).sum())
        per_element = 2 * DTYPES[self.spec.dtype] + len(touching) / 8 + values_bytes / self.spec.numel
        fitting = 1 << int(step.staged / per_element).bit_length() - 1
        self.step = max(64, min(max(MIN_CHUNK_ELEMENTS, fitting), 1 << step.largest.bit_length() - 1))

    def ranks(self) -> Ranks:
        """Return the ranks of these patches in this tensor, of which nothing is known yet."""
        return Ranks(self.spec.numel, np.where(self._sources[:, INDEX_WIDTH] == 0, self._nnz, 0))

    def seek(self, arena: Arena, first: int, ranks: Ranks) -> None:
        """Go to an element, as if all elements before it had been staged.

        Args:
            arena: Where masks are read; what was in it is forgotten.
            first: The element, a multiple of 64 below their number.
            ranks: Of the same patches in this tensor, as `ranks` makes them; what is counted here is added.

        Raises:
            InvalidPatch: A mask and its values differ in number.
            InvalidInput: A file has become shorter since it was opened.
        """
        used = ranks.before(first, partial(self._count_bits, arena))
        if (used < 0).any():  # counted from the end
            raise self._differ()
        for number in self._indices:
            used[number] = bisect_left(range(int(self._nnz[number])), first, key=partial(self._index, number))
        self._used = used

    def _count_bits(self, arena: Arena, first: int, stop: int) -> Numbers:
        """Count the bits set for elements first..stop - 1 in each bitmask; 0 where there are indices."""
        places, counts = np.zeros(len(self._sources), np.int64), np.zeros(len(self._sources), np.int64)
        length = (stop - first + 7) // 8
        arena.clear()
        self._read_masks(arena, first // 8, length, arena.place(length), 0, places, counts)
        return counts

    def _index(self, number: int, place: int) -> int:
        """Read one index of a patch."""
        file, start, width = (int(self._sources[number, column]) for column in (FILE, MASK, INDEX_WIDTH))
        index = bytearray(width)
        fill(memoryview(index), file, start + place * width, f"The file that holds {show(self.tensor)}", InvalidInput)
        return int.from_bytes(index, "little")

    def stage(self, arena: Arena, first: int, stop: int, with_base: bool = True) -> Chunk:
        """Stage the masks of elements first..stop - 1, which follow those staged before.

        What is checked here keeps kernels inside the chunk.

        Args:
            arena: Where to stage them; what was in it is forgotten.
            first, stop: The elements.
            with_base: Whether the base's bytes are to be read; there is room for them either way.

        Raises:
            InvalidPatch: Indices do not increase, padding is set, or a mask and its values differ in number.
            InvalidInput: A file has become shorter since it was opened.
        """
        arena.clear()
        width = DTYPES[self.spec.dtype]
        length = (stop - first) * width
        base_at = arena.place(length)
        places, counts = np.zeros(len(self._sources), np.int64), np.zeros(len(self._sources), np.int64)
        if self._bits:
            self._stage_bits(arena, first, stop, places, counts)
        for number in self._indices:
            places[number], counts[number] = self._stage_indices(arena, number, first, stop)
        used = self._used
        self._used = used + counts
        short = self._used != self._nnz if stop == self.spec.numel else self._used > self._nnz
        if short.any():
            raise self._differ()
        table, scales = np.empty((len(counts), 5), np.int64), np.empty(len(counts), np.float64)
        parts = np.empty((len(counts) + 1, 4), np.int64)
        parts[0] = self._file, self._at + first * width, base_at, length
        rows, end = lay_out(
            self._sources, self._scales, places, counts, used, arena.used, ALIGN, PAD, table, scales, parts[1:]
        )
        arena.use(end)
        wanted = parts[0 if with_base else 1 : 1 + rows]
        numbers = np.flatnonzero(counts)
        ask = first, stop, base_at, table[:rows], scales[:rows], wanted, numbers, used[numbers]
        return Chunk(self.tensor, self.spec, *ask)

    def _stage_bits(self, arena: Arena, first: int, stop: int, places: Numbers, counts: Numbers) -> None:
        """Read the bitmasks; fill in where they are and how many bits of each are set."""
        length, at = (stop - first + 7) // 8, arena.used
        arena.use(at + len(self._bits) * room(length))
        self._read_masks(arena, first // 8, length, at, room(length), places, counts)
        if stop == self.spec.numel and stop % 8:
            for number in self._bits:
                if arena.bytes[places[number] + length - 1] >> stop % 8:
                    entry = self._entries[number]
                    raise InvalidPatch(f"Entry {show(entry)}: a padding bit after its {stop} bits is set.", field=entry)

    def _read_masks(
        self, arena: Arena, first: int, length: int, at: int, step: int, places: Numbers, counts: Numbers
    ) -> None:
        """Read the bitmasks from byte `first` on; arguments are those of the kernel."""
        ask = self._sources, first, length, at, step, arena.bytes, places, counts
        while (failed := int(read_masks(*ask))) >= 0:
            start = int(self._sources[failed, MASK]) + first
            view = arena.view[at : at + length]
            what = f"The file that holds {show(self.tensor)}"
            file = int(self._sources[failed, FILE])
            fill(view, file, start, what, InvalidInput)  # as in read_all

    def _differ(self) -> InvalidPatch:
        return InvalidPatch(f"The mask and values of {show(self.tensor)} differ in number.", field=self.tensor)

    def _stage_indices(self, arena: Arena, number: int, first: int, stop: int) -> tuple[int, int]:
        """Read indices until one belongs to a later chunk; return where they are and how many belong to this one."""
        file, start, width = (int(self._sources[number, column]) for column in (FILE, MASK, INDEX_WIDTH))
        used = int(self._used[number])
        most = min(int(self._nnz[number]) - used, stop - first)
        at, count, read = arena.place(most * width), 0, 0
        while count == read < most:
            more = min(most - read, (stop - first) // 64 + 64)
            to = at + read * width
            read_all(np.array([[file, start + (used + read) * width, to, more * width]]), arena, self.tensor)
            fitting = int(count_indices(arena.bytes, to, width, more, first, stop, self._last[number]))
            if fitting < 0:
                entry = self._entries[number]
                raise InvalidPatch(f"Entry {show(entry)}: its indices do not strictly increase.", field=entry)
            if fitting:
                self._last[number] = int.from_bytes(arena.view[to + (fitting - 1) * width :][:width], "little")
            count, read = count + fitting, read + more
        return at, count

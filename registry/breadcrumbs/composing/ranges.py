"""Ranges: any bytes of a composition's weight files, computed when they are read, and kept nowhere.

    header, tensors that no patch touches    read from the base
    touched tensor                           its elements that the range meets, staged and composed in chunks

The files have the base's names, headers and shards, so a byte's place says what it is. It is composed by the stages and
the engine that write whole files. Memory does not grow with the range: a few chunks are ahead of the reader.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from typing import Any

from registry.breadcrumbs.composing.compose import find_touching
from registry.breadcrumbs.composing.engines import Buffers, CpuEngine, Rule, compose_staged
from registry.breadcrumbs.composing.lanes import Crew, Phases
from registry.breadcrumbs.composing.ranks import Ranks
from registry.breadcrumbs.composing.small import compose_small, is_small, joins, make_room
from registry.breadcrumbs.composing.staging import Stager
from registry.breadcrumbs.composing.writer import READ_BYTES
from registry.breadcrumbs.formats.blocks import fill
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import DTYPES, Entry
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe
from registry.errors import EntryNotFound, InvalidCheckpoint, RangeNotSatisfiable
from registry.files.threads import processors

FIRST_CHUNKS = (2**16, 2**17)
"""Most elements of a range's first chunks, so that its first bytes come soon, and a short one is shared by threads."""

CHUNK = 2**18
"""Most elements of the others: few enough to stay in a processor's cache, which takes an eighth off a piece's time."""

ALIGNED = 64
"""Elements that are composed together; a range is widened to a multiple of them, or to the end of the tensor."""

Part = tuple["Future[Any]", memoryview]
"""Bytes of a range, and the work after which they are there."""


class ComposedWeights:
    """The weight files of a composition, which need not have been written; threads may read at the same time.

    Args:
        base: The base, open as long as this is used; the caller has verified its bytes.
        patches: The recipe's patches by the sha256 of their files, likewise; the caller has checked the files.
        recipe: What they are composed by.

    Attributes:
        sizes: The size of each file in bytes, by its path in the model.
        phases: Where time is counted.

    Raises:
        BaseMismatch: A patch is not for this base.
        InvalidRecipe: A patch of the recipe is missing from `patches`.
    """

    def __init__(self, base: Checkpoint, patches: Mapping[str, Patch], recipe: Recipe) -> None:
        self.phases = Phases()
        self._base, self._touching = base, find_touching(base, patches, recipe)
        self._engine = CpuEngine(self.phases, Rule.of(recipe))
        self._entries = {name: list(header.entries.values()) for name, header in base.headers.items()}
        self._ranks: dict[str, Ranks] = {}
        self._buffers: list[Buffers] = []  # that no reading uses now
        self.sizes = {
            name: max((entry.stop for entry in entries), default=base.headers[name].size)
            for name, entries in self._entries.items()
        }

    def read(
        self, name: str, start: int = 0, stop: int | None = None, threads: int | None = None
    ) -> Iterator[memoryview]:
        """Compose bytes start..stop - 1 of a weight file, and yield them in order, piece by piece.

        A piece holds until the next one is asked for. Close the iterator if it is not read to its end.

        Args:
            name: The file's path in the model.
            start, stop: The bytes; to the end of the file when `stop` is None.
            threads: How many chunks are computed at a time; as many as there are processors when None.

        Raises:
            EntryNotFound: The model has no such weight file.
            RangeNotSatisfiable: The file has no such bytes.
            NotFinite: A result overflows where the base was finite; raised in place of its piece.
            InvalidPatch: A patch contradicts itself; likewise.
            InvalidInput: A file has become shorter since it was opened; likewise.
        """
        if name not in self.sizes:
            raise EntryNotFound(f"The model has no weight file {name}.", field=name)
        size = self.sizes[name]
        stop = size if stop is None else stop
        if not 0 <= start <= stop <= size:
            raise RangeNotSatisfiable(f"{name} has {size} bytes, and not bytes {start} to {stop}.", size=size)
        return self._stream(name, start, stop, self._engine.depth(threads or processors()))

    def _stream(self, name: str, start: int, stop: int, depth: int) -> Iterator[memoryview]:
        waiting: deque[Part] = deque()
        buffers = [self._take_buffers() for _ in range(depth + 1)]
        with Crew(depth, (), buffers) as crew:
            for part in self._begin(crew, name, start, stop):
                waiting.append(part)
                if len(waiting) > depth:  # all slots are in use
                    yield _finished(waiting.popleft())
            while waiting:
                yield _finished(waiting.popleft())
        self._buffers += buffers  # unless it was not read to its end: then threads may use them still

    def _take_buffers(self) -> Buffers:
        """Return buffers of a reading before, or new ones."""
        with suppress(IndexError):
            return self._buffers.pop()
        return self._engine.buffers()

    def _begin(self, crew: Crew[Buffers], name: str, start: int, stop: int) -> Iterator[Part]:
        """Begin to compose a range, one part after another."""
        entries, at = self._entries[name], start  # the bytes from `at` on are not begun
        steps = chain(FIRST_CHUNKS, repeat(CHUNK))
        small: list[Entry] = []  # to be composed together; they end at `at`
        for entry in entries[bisect_right(entries, start, key=lambda entry: entry.stop) :]:
            if entry.start >= stop:
                break
            if entry.name not in self._touching:
                continue
            joined = is_small(entry) and start <= entry.start and entry.stop <= stop
            if small and not (joined and joins(small, entry)):
                yield self._join(crew, small)
                small = []
            yield from self._copy(crew, name, at, max(at, entry.start))
            at = min(stop, entry.stop)
            if joined:
                small.append(entry)
            else:
                yield from self._compose(crew, entry, max(start, entry.start), at, steps)
        if small:
            yield self._join(crew, small)
        yield from self._copy(crew, name, at, stop)

    def _join(self, crew: Crew[Buffers], entries: Sequence[Entry]) -> Part:
        """Begin to compose small tensors that follow each other."""
        slot = crew.next_slot()
        room = make_room(slot.buffers, entries)
        ask = self._base, self._touching, self._engine, room, slot.buffers, self.phases
        return crew.work(slot, partial(compose_small, *ask)), room.new

    def _copy(self, crew: Crew[Buffers], name: str, start: int, stop: int) -> Iterator[Part]:
        """Begin to read bytes that are the base's."""
        for at in range(start, stop, READ_BYTES):
            slot = crew.next_slot()
            out = slot.buffers.out
            length = min(READ_BYTES, stop - at)
            out.clear()
            out.place(length)
            view = out.view[:length]
            yield crew.work(slot, partial(self._read, view, name, at)), view

    def _read(self, view: memoryview, name: str, at: int) -> None:
        with self.phases.of("read"):
            fill(view, self._base.file(name).fileno(), at, f"Weight file {name}", InvalidCheckpoint)

    def _compose(
        self, crew: Crew[Buffers], entry: Entry, start: int, stop: int, steps: Iterator[int]
    ) -> Iterator[Part]:
        """Begin to compose bytes start..stop - 1 of a file, which belong to one tensor that patches touch."""
        width = DTYPES[entry.dtype]
        first = (start - entry.start) // width // ALIGNED * ALIGNED
        last = min(entry.numel, -(-(stop - entry.start) // (width * ALIGNED)) * ALIGNED)
        stager = Stager(self._base, entry.name, self._touching[entry.name], self._engine.step)
        at = first
        while at < last:
            slot = crew.next_slot()
            arena, out = slot.buffers.arena, slot.buffers.out
            with self.phases.of("masks"):
                if at == first > 0:
                    stager.seek(arena, first, self._ranks.setdefault(entry.name, stager.ranks()))
                chunk = stager.stage(arena, at, min(at + min(stager.step, next(steps)), last))
            out.clear()
            out.place(chunk.length)
            begins = entry.start + at * width  # the byte of the file at which the chunk begins
            view = out.view[max(0, start - begins) : min(chunk.length, stop - begins)]
            yield crew.work(slot, partial(compose_staged, self._engine, chunk, slot.buffers, self.phases)), view
            at = chunk.stop


def _finished(part: Part) -> memoryview:
    done, view = part
    done.result()
    return view.toreadonly()

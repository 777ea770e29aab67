"""The writer: writes the weight files of a composition, or nothing, and hashes what is read and written on the way.

    main thread   read masks, count their bits
    workers       read the rest, compose
    lanes         write; hash, two streams side by side: the base's tensors or files and the tensors; the files

Hashing one thing cannot be shared, so several are in work at a time, in turn, each with lanes of its own: files, where
these are hashed, and tensors elsewhere. Chunks of one follow each other in the order of the file, and its lanes take
them in that order. Tensors that no patch touches are copied by the system, and read only if something is to be hashed.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, BinaryIO, Protocol

from registry.breadcrumbs.composing.engines import Buffers, Engine, compose_staged
from registry.breadcrumbs.composing.lanes import Crew, Phases, Slot
from registry.breadcrumbs.composing.small import compose_small, is_small, joins, make_room
from registry.breadcrumbs.composing.staging import Chunk
from registry.breadcrumbs.composing.variances import NegativeVariances, is_variance
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import Entry
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.kernels.sha256.streams import new_hash, update_each
from registry.errors import InvalidCheckpoint
from registry.files.copying import copy_range, write_at
from registry.files.hashing import Hash
from registry.files.progress import Meter

READ_BYTES = 2**21
"""Bytes of an untouched tensor that are read at a time for hashing."""

HASHES = ("base tensors", "base files", "tensors", "files")
"""The kinds of things that can be hashed."""

HASH_LANES = ("hash", "hash more")
"""Each hashes two kinds, which takes little longer than one."""

STREAMS = 4
"""Files, or tensors, that are in work at a time, each with lanes of its own."""

COPY = "copy"
LANES = (COPY, *(f"{what} {stream}" for what in ("write", *HASH_LANES) for stream in range(STREAMS)))


class Sink(Protocol):
    """Where the bytes of a weight file go: into a file, or to wherever its tensors are."""

    def put(self, view: memoryview, at: int) -> None:
        """Take the bytes of the file from byte `at` on."""

    def copy(self, start: int, stop: int) -> None:
        """Take bytes start..stop - 1 as they are in the base."""


class FileSink:
    """A weight file on disk.

    Args:
        file: Open for writing.
        base: The base's file of this name.
        name: The file's path in the model.
    """

    def __init__(self, file: BinaryIO, base: BinaryIO, name: str) -> None:
        self._file, self._base, self._name = file, base, name

    def put(self, view: memoryview, at: int) -> None:
        """Write bytes of the file."""
        write_at(self._file.fileno(), view, at)

    def copy(self, start: int, stop: int) -> None:
        """Copy bytes of the base's file; the system shares their blocks where it can.

        Raises:
            InvalidCheckpoint: The base's file has become shorter since it was opened.
        """
        try:
            copy_range(self._base.fileno(), self._file.fileno(), start, stop, start)
        except EOFError:
            raise InvalidCheckpoint(
                f"Weight file {self._name} became shorter while it was read; fetch it again."
            ) from None


Steps = Callable[[int], Iterator[None]]
"""Begins one chunk after another of a file or a tensor, given the number of the lanes to use."""


class Writer:
    """Writes weight files: call `write` or `write_tensors` for each, then `run`.

    Args:
        base: The base.
        touching: The patches that touch each tensor, ascending by sha256, each with its scale.
        engine: Composes a chunk.
        crew: Its lanes are LANES.
        phases: Where time is counted.
        hashed: Which of HASHES to compute; `tensors` are those that patches touch, and also the others if the
            base's are not hashed.
        meter: Where progress is counted.

    Attributes:
        variances: Those that became negative, once all is written.
    """

    def __init__(
        self,
        base: Checkpoint,
        touching: Mapping[str, Sequence[tuple[Patch, float]]],
        engine: Engine,
        crew: Crew[Buffers],
        phases: Phases,
        hashed: Collection[str],
        meter: Meter,
    ) -> None:
        self.base, self.touching, self.engine, self.crew = base, touching, engine, crew
        self.phases, self.meter, self.variances = phases, meter, NegativeVariances()
        self._hashes: dict[str, dict[str, Hash]] = {what: {} for what in HASHES if what in hashed}
        kinds = list(self._hashes)
        self._lanes = [(lane, kinds[2 * at : 2 * at + 2]) for at, lane in enumerate(HASH_LANES)]
        self._streams: deque[Steps] = deque()

    def digests(self, what: str) -> dict[str, str]:
        """Return the sha256, in hex, of everything of a kind by its name; call it once all is written."""
        return {name: digest.hexdigest() for name, digest in self._hashes[what].items()}

    def write(self, name: str, file: BinaryIO | None) -> int:
        """Plan to write a weight file, or only to hash it where there is no file; return its size."""
        header = self.base.read_header_bytes(name)
        for what in ("base files", "files"):
            if what in self._hashes:
                self._hashes[what][name] = new_hash(header)
        sink = None if file is None else FileSink(file, self.base.file(name), name)
        if sink is not None:
            sink.put(memoryview(header), 0)
        entries = list(self.base.headers[name].entries.values())
        self.write_tensors(name, sink, entries)
        return max((entry.stop for entry in entries), default=len(header))

    def write_tensors(self, name: str, sink: Sink | None, entries: Sequence[Entry]) -> None:
        """Plan to write tensors of a weight file, which are in the order of the file, over whatever is there."""
        if sink is not None:
            for start, stop in untouched(entries, self.touching):
                self.crew.queue(COPY, partial(self._copy, sink, start, stop))
        plan = list(self._plan(name, sink, entries))
        if "files" in self._hashes or "base files" in self._hashes:
            self._streams.append(lambda stream: chain.from_iterable(steps(stream) for steps in plan))
        else:
            self._streams.extend(plan)

    def run(self) -> None:
        """Begin all that is planned; as many files or tensors as there are streams take turns."""
        free, turns = list(range(STREAMS)), deque[tuple[int, Iterator[None]]]()
        while self._streams or turns:
            if self._streams and free:
                stream = free.pop()
                turns.append((stream, self._streams.popleft()(stream)))
                continue
            stream, steps = turns.popleft()
            if next(steps, steps) is steps:  # it has ended
                free.append(stream)
            else:
                turns.append((stream, steps))

    def _plan(self, name: str, sink: Sink | None, entries: Sequence[Entry]) -> Iterator[Steps]:
        """Yield what to do for each tensor, and for small ones that follow each other, which are composed together."""
        small: list[Entry] = []
        for entry in entries:
            touched = entry.name in self.touching
            joined = touched and is_small(entry) and self.engine.resident is None
            if small and not (joined and joins(small, entry)):
                yield partial(self._join, name, sink, small)
                small = []
            if joined:
                small.append(entry)
            elif touched:
                yield partial(self._compose, name, sink, entry)
            else:
                yield partial(self._hash, name, entry)
        if small:
            yield partial(self._join, name, sink, small)

    def _join(self, name: str, sink: Sink | None, entries: Sequence[Entry], stream: int) -> Iterator[None]:
        """Compose small tensors that patches touch, and hash each of them, in one call."""
        slot = self.crew.next_slot()
        room, buffers = make_room(slot.buffers, entries), slot.buffers
        ask = self.base, self.touching, self.engine, room, buffers, self.phases, self._see_small
        done = self.crew.work(slot, partial(compose_small, *ask))
        if sink is not None:
            self.crew.follow(slot, f"write {stream}", done, partial(self._put, sink, room.new, entries[0].start))
        self._follow(slot, stream, done, {"base files": (name, room.old), "files": (name, room.new)})
        self.meter.add(len(room.new))
        yield

    def _see_small(self, name: str, old: memoryview, new: memoryview) -> None:
        self._look(name, old, new)
        with self.phases.of("hash"):
            for what, view in (("base tensors", old), ("tensors", new)):
                if what in self._hashes:
                    self._hashes[what][name] = hashlib.sha256(view)

    def _compose(self, name: str, sink: Sink | None, entry: Entry, stream: int) -> Iterator[None]:
        """Compose a tensor that patches touch."""
        stager = self.engine.stager(self.base, entry.name, self.touching[entry.name])
        at, numel = entry.start, entry.numel
        held = self.engine.resident is not None and self.engine.resident.holds(entry.name)
        with_base = not held or is_variance(entry.name)
        self._begin(entry, "tensors", *([] if held else ["base tensors"]))
        for first in range(0, numel, stager.step):
            slot = self.crew.next_slot()
            arena = slot.buffers.arena
            with self.phases.of("masks"):
                chunk = stager.stage(arena, first, min(first + stager.step, numel), with_base=with_base)
            old = arena.view[chunk.base_at : chunk.base_at + chunk.length]
            slot.buffers.out.clear()
            slot.buffers.out.place(chunk.length)
            new = slot.buffers.out.view[: chunk.length]
            done = self.crew.work(slot, partial(self._run, chunk, slot.buffers))
            if sink is not None:
                self.crew.follow(slot, f"write {stream}", done, partial(self._put, sink, new, at))
            views = {"base files": (name, old), "tensors": (entry.name, new), "files": (name, new)}
            self._follow(slot, stream, done, views if held else views | {"base tensors": (entry.name, old)})
            self.meter.add(chunk.length)
            at += chunk.length
            yield

    def _run(self, chunk: Chunk, buffers: Buffers) -> None:
        compose_staged(self.engine, chunk, buffers, self.phases)
        before = buffers.arena.view[chunk.base_at : chunk.base_at + chunk.length]
        self._look(chunk.tensor, before, buffers.out.view[: chunk.length])

    def _look(self, name: str, old: memoryview, new: memoryview) -> None:
        if is_variance(name):
            self.variances.look(name, self.base.tensors[name].dtype, old, new)

    def _put(self, sink: Sink, view: memoryview, at: int) -> None:
        with self.phases.of("write"):
            sink.put(view, at)

    def _copy(self, sink: Sink, start: int, stop: int) -> None:
        with self.phases.of("copy"):
            sink.copy(start, stop)

    def _hash(self, name: str, entry: Entry, stream: int) -> Iterator[None]:
        """Hash a tensor that no patch touches, if anything is hashed."""
        if not self._hashes:
            self.meter.add(entry.stop - entry.start)
            return
        tensors = "base tensors" if "base tensors" in self._hashes else "tensors"
        self._begin(entry, tensors)
        for start in range(0, entry.stop - entry.start, READ_BYTES):
            slot = self.crew.next_slot()
            length = min(READ_BYTES, entry.stop - entry.start - start)
            slot.buffers.arena.clear()
            at = slot.buffers.arena.place(length)
            view = slot.buffers.arena.view[at : at + length]
            done = self.crew.work(slot, partial(self._read, view, entry, start))
            views = {tensors: (entry.name, view), "base files": (name, view), "files": (name, view)}
            self._follow(slot, stream, done, views)
            self.meter.add(length)
            yield

    def _read(self, view: memoryview, entry: Entry, start: int) -> None:
        with self.phases.of("read"):
            self.base.fill(view, entry.name, start)

    def _begin(self, entry: Entry, *kinds: str) -> None:
        for what in kinds:
            if what in self._hashes:
                self._hashes[what][entry.name] = new_hash()

    def _follow(self, slot: Slot[Buffers], stream: int, done: Any, views: Mapping[str, tuple[str, memoryview]]) -> None:
        """Have lanes hash what a worker brings: views by kind, each with the name of what it is part of."""
        for lane, kinds in self._lanes:
            fed = [(self._hashes[what][views[what][0]], views[what][1]) for what in kinds if what in views]
            if fed:
                self.crew.follow(slot, f"{lane} {stream}", done, partial(self._update, fed))

    def _update(self, fed: Sequence[tuple[Hash, memoryview]]) -> None:
        with self.phases.of("hash"):
            update_each(fed)


def untouched(entries: Sequence[Entry], touching: Collection[str]) -> Iterator[tuple[int, int]]:
    """Yield the byte ranges (start, stop) of a file that no patch touches, neighbouring entries joined."""
    start = stop = 0
    for entry in entries:
        if entry.name in touching:
            continue
        if entry.start != stop:
            if stop > start:
                yield start, stop
            start = entry.start
        stop = entry.stop
    if stop > start:
        yield start, stop

"""Applying: a weight file of the later revision, out of that of the earlier one and a delta, in bounded memory.

Whatever a delta says is checked before it is used as a place or a length: masks by their padding, indices by their
order and range, both by their number, and what comes out by the caller, who compares its digests.
"""

import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.deltas.delta_file import Delta, steps_of, takes_steps, units
from registry.breadcrumbs.formats.arrays import NUMPY, octets
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import DTYPES, Entry, show
from registry.errors import BaseMismatch, InvalidPatch, InvalidRequest
from registry.files.hashing import BLOCK
from registry.files.progress import Meter

INDICES_READ = 2**16
"""Indices that are read at a time."""


def check_tensors(before: Checkpoint, delta: Delta) -> None:
    """Check that a checkpoint has the tensors that a delta changes.

    Raises:
        BaseMismatch: It does not.
    """
    for name, spec in delta.info.tensors.items():
        if before.tensors.get(name) != spec:
            raise BaseMismatch(
                f"{delta.called} changes tensor {show(name)} as {spec.dtype} {list(spec.shape)}, and this model has no "
                "such tensor.",
                field=name,
            )


def apply_delta(before: Checkpoint, delta: Delta, name: str, out: BinaryIO, meter: Meter) -> str:
    """Write a weight file of the later revision.

    Args:
        before: The earlier revision, which has the tensors of the delta.
        delta: The delta.
        name: The weight file, which both revisions have.
        out: Where it is written.
        meter: Counts the bytes of tensors.

    Returns:
        The sha256 of what was written.

    Raises:
        InvalidPatch: The delta contradicts itself.
        InvalidCheckpoint: A file has become shorter since it was opened.
    """
    header = before.read_header_bytes(name)
    digest = hashlib.sha256(header)
    out.write(header)
    for entry in before.headers[name].entries.values():
        size, dtype = units(before.tensors[entry.name])
        width = DTYPES[dtype]
        changes = _changes_of(delta, entry.name, size, width)
        for start, stop in blocks(size):
            block: npt.NDArray[Any] = np.empty(stop - start, f"<u{width}")
            before.fill(octets(block), entry.name, start * width)
            for change in changes:
                change.put(block, start)
            digest.update(octets(block))
            out.write(octets(block))
            meter.add(block.nbytes)
        for change in changes:
            change.end()
    return digest.hexdigest()


def read_changes(
    delta: Delta, name: str, step: int, before: Checkpoint | None = None
) -> Iterator[tuple[int, npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """Read what a delta changes in one tensor.

    Args:
        delta: The delta.
        name: The tensor.
        step: How many elements are looked at at a time, a multiple of 8.
        before: The earlier revision, which is needed where the delta has steps.

    Yields:
        The first of these elements, the places of those that change counted from it, and their new bits.

    Raises:
        InvalidPatch: The delta contradicts itself.
        InvalidRequest: The tensor has steps, and `before` is not given.
    """
    size, dtype = units(delta.info.tensors[name])
    width = DTYPES[dtype]
    changes = _changes_of(delta, name, size, width)
    stepped = any(change.steps for change in changes)
    if stepped and before is None:
        raise InvalidRequest(
            f"{delta.called} tells by how much elements of {show(name)} change; give the earlier revision, too, or "
            "make the delta with `--values`.",
            field="before",
        )
    for start, stop in blocks(size, step):
        block: npt.NDArray[Any] = np.empty(stop - start, f"<u{width}")
        if stepped and before is not None:
            before.fill(octets(block), name, start * width)
        places = np.concatenate([change.put(block, start) for change in changes])
        places.sort()
        yield start, places, block[places]
    for change in changes:
        change.end()


def write_carried(delta: Delta, path: str, out: BinaryIO) -> str:
    """Write a file that a delta holds whole; return the sha256 of what was written."""
    entry = delta.entry(f"{path}.file")
    assert entry is not None
    digest = hashlib.sha256()
    for start, stop in blocks(entry.numel, BLOCK):
        view = memoryview(bytearray(stop - start))
        delta.fill(view, entry, start)
        digest.update(view)
        out.write(view)
    return digest.hexdigest()


def _changes_of(delta: Delta, name: str, size: int, width: int) -> list["_Changes"]:
    """Return what a delta changes in a tensor: elements that it gives whole, and those that it gives by steps."""
    if name not in delta.info.tensors:
        return []
    tensors, begun = delta.info.tensors, {name: f"<u{width}"}
    if takes_steps(name, tensors[name], tensors):
        begun[steps_of(name)] = "|i1"
    return [_Changes(delta, begin, size, dtype) for begin, dtype in begun.items() if delta.entry(f"{begin}.values")]


class _Changes:
    """What two entries of a delta change in one tensor, block after block.

    Args:
        delta: The delta.
        name: What the names of the entries begin with.
        size: The tensor's elements.
        dtype: numpy's name of the dtype that values are read as: `|i1` of steps, which are added.

    Attributes:
        steps: Whether they are steps.
    """

    def __init__(self, delta: Delta, name: str, size: int, dtype: str) -> None:
        self._delta, self._name, self._size = delta, name, size
        self._dtype, self.steps = dtype, dtype == "|i1"
        self._values = self._entry("values")
        self._mask = delta.entry(f"{name}.bitmask")
        self._used = 0
        if self._mask is None:
            self._indices = self._entry("indices")
            self._read, self._last = 0, -1
            self._ahead = np.empty(0, np.int64)  # indices that were read and belong to later blocks

    def put(self, block: npt.NDArray[Any], start: int) -> npt.NDArray[np.int64]:
        """Change a block of elements, which begins at `start` and follows the one before; return which are changed."""
        if self._mask is None:
            places = self._next_indices(start + len(block)) - start
        else:
            places = np.flatnonzero(self._bits(self._mask, start, len(block)))
        if self._used + len(places) > self._values.numel:
            raise self._differ()
        values = np.empty(len(places), self._dtype)
        self._delta.fill(octets(values), self._values, self._used * values.itemsize)
        if self.steps:
            block[places] += values.astype(np.int16).view(block.dtype)  # modulo 2^16
        else:
            block[places] = values
        self._used += len(places)
        return places

    def end(self) -> None:
        """Check that all values were used."""
        if self._used != self._values.numel:
            raise self._differ()

    def _bits(self, mask: Entry, start: int, count: int) -> npt.NDArray[np.uint8]:
        raw = np.empty((count + 7) // 8, np.uint8)
        self._delta.fill(octets(raw), mask, start // 8)
        bits = np.unpackbits(raw, bitorder="little")
        if bits[count:].any():
            raise self._flaw("bitmask", f"a padding bit after its {self._size} bits is set")
        return bits[:count]

    def _next_indices(self, stop: int) -> npt.NDArray[np.int64]:
        """Return the indices that come next and are below `stop`."""
        count, parts = self._indices.numel, [self._ahead]
        while self._read < count and (not parts[-1].size or parts[-1][-1] < stop):
            raw = np.empty(min(INDICES_READ, count - self._read), NUMPY[self._indices.dtype])
            self._delta.fill(octets(raw), self._indices, self._read * raw.itemsize)
            more = raw.astype(np.int64)
            if more[0] <= self._last or (np.diff(more) <= 0).any() or more[-1] >= self._size:
                raise self._flaw("indices", f"its indices do not strictly increase from 0 to below {self._size}")
            self._read, self._last = self._read + len(more), int(more[-1])
            parts.append(more)
        ahead = np.concatenate(parts)
        cut = int(np.searchsorted(ahead, stop))
        self._ahead = ahead[cut:]
        return ahead[:cut]

    def _entry(self, part: str) -> Entry:
        entry = self._delta.entry(f"{self._name}.{part}")
        assert entry is not None  # read_info has seen it
        return entry

    def _differ(self) -> InvalidPatch:
        return self._flaw("values", "it has another number of values than its mask says")

    def _flaw(self, part: str, rule: str) -> InvalidPatch:
        return InvalidPatch(f"{self._delta.called} is refused: entry {show(f'{self._name}.{part}')}: {rule}.")

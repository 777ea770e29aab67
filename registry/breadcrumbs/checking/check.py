"""Checks of a stranger's patch file: every rule of the format, for the base it must be for, in bounded memory.

The header comes first (header_reader.py, layout.py): after that every length is the base's, not the file's. Then the
data, block by block: padding bits, number of set bits, order and range of indices, finite values. Statistics are
computed from the values and not taken from the file. Every byte is read once, in the order of the file, and hashed
after it was checked.
"""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from registry.breadcrumbs.formats.arrays import NUMPY, Octets, octets
from registry.breadcrumbs.formats.blocks import BLOCK_ELEMENTS, HASH_BYTES, blocks
from registry.breadcrumbs.formats.header import DTYPES, PATCH_LIMITS, Entry, Limits, TensorSpec, show
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import Patch, called, open_patch
from registry.breadcrumbs.kernels.check import count_bits, measure_values
from registry.breadcrumbs.kernels.constants import CODES, PAD
from registry.breadcrumbs.kernels.sha256.streams import hash_each, new_hash, update_each
from registry.errors import BaseMismatch, InvalidPatch
from registry.files.hashing import Extent, Hash
from registry.files.progress import Meter, Progress


@dataclass(frozen=True)
class TensorReport:
    """What a patch does to one tensor.

    Args:
        name, shape, dtype: The tensor.
        nnz: How many of its weights are touched.
        density: nnz over all its weights.
        l1, l2, linf: Norms of the patch's values, unscaled, in float64.
        extents: Where the file has the tensor's mask and its values; None unless asked for.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nnz: int
    density: float
    l1: float
    l2: float
    linf: float
    extents: tuple[Extent, Extent] | None = None


@dataclass(frozen=True)
class PatchReport:
    """A sound patch.

    Args:
        sha256, size: Of the file; bytes.
        nnz: How many of the base's weights are touched.
        density: nnz over all the base's weights.
        params: How the patch was made, as it says.
        tensors: The tensors that it touches, in name order.
        header: Where the file has its header; None unless asked for.
    """

    sha256: str
    size: int
    nnz: int
    density: float
    params: MaskParams
    tensors: list[TensorReport]
    header: Extent | None = None


def check_patch(
    path: Path,
    base: str,
    tensors: Mapping[str, TensorSpec],
    progress: Progress | None = None,
    *,
    extents: bool = False,
) -> PatchReport:
    """Check a patch file against the base it must be for.

    Args:
        path: The file; it must not change while it is checked.
        base: Weights digest of the base.
        tensors: dtype and shape of every tensor of the base.
        progress: Called with (bytes read, bytes to read).
        extents: Whether to hash each part of the file by itself, too, so that whoever needs one can verify it.

    Returns:
        Its digest, size and statistics.

    Raises:
        InvalidPatch: The file breaks a rule; the message names the entry and the rule.
        BaseMismatch: The patch was made for another base.
    """
    meter, reading = Meter(path.stat().st_size, progress), _Reading(path, base, tensors)
    whole, parts = new_hash(), dict[str, Hash]()
    for entry, view in reading.parts():
        if extents and entry not in parts:
            parts[entry] = new_hash()
        update_each([(whole, view), *([(parts[entry], view)] if extents else [])])
        meter.add(len(view))
    return reading.report(whole.hexdigest(), {entry: part.hexdigest() for entry, part in parts.items()})


def check_patches(
    paths: Sequence[Path], base: str, tensors: Mapping[str, TensorSpec], progress: Progress | None = None
) -> list[PatchReport]:
    """Check patch files as `check_patch` does, several at a time, and hash them in pairs."""
    meter = Meter(sum(path.stat().st_size for path in paths), progress)
    readings = [_Reading(path, base, tensors) for path in paths]
    digests = hash_each([reading.blocks for reading in readings], meter.add)
    return [reading.report(sha256) for reading, sha256 in zip(readings, digests, strict=True)]


class _Reading:
    """A patch file that is checked while it is read; arguments and errors as of `check_patch`."""

    def __init__(self, path: Path, base: str, tensors: Mapping[str, TensorSpec]) -> None:
        self._path, self._base, self._tensors = path, base, tensors
        self._patch: Patch
        self._norms: dict[str, tuple[float, float, float]] = {}

    def blocks(self) -> Iterator[memoryview]:
        """Yield the file block by block, in a buffer that is used again, each once it was found sound."""
        return (view for _, view in self.parts())

    def parts(self) -> Iterator[tuple[str, memoryview]]:
        """Yield the blocks, each with the name of the entry that it is of, or "" for the header."""
        with open_patch(self._path, limits_for(self._tensors)) as patch:
            info, header = patch.info, patch.header
            if info.base != self._base:
                raise BaseMismatch(
                    f"{called(self._path)} was made for base {info.base}, and this model's base is {self._base}.",
                    field="base",
                )
            for name, spec in info.tensors.items():
                _check_spec(called(self._path), name, spec, self._tensors.get(name))
            longest = max(min(entry.numel, BLOCK_ELEMENTS) * DTYPES[entry.dtype] for entry in header.entries.values())
            buffer = np.zeros(max(longest, HASH_BYTES) + PAD, np.uint8)
            for start, stop in blocks(header.size, HASH_BYTES):
                view = octets(buffer)[: stop - start]
                patch.fill_from_file(view, start)
                yield "", view
            for entry in header.entries.values():
                name, _, kind = entry.name.rpartition(".")
                ask = patch, entry, buffer, info.tensors[name].numel, info.nnz[name]
                if kind == "values":
                    norms = yield from _read_values(*ask)
                    self._norms[name] = norms
                else:
                    yield from (_read_bits if kind == "bitmask" else _read_indices)(*ask)
            self._patch = patch  # closed by then: only what its header says is asked for

    def report(self, sha256: str, parts: Mapping[str, str] | None = None) -> PatchReport:
        """Return what was found once all is read, with the sha256 of the file, and of its parts by name."""
        patch, info, reports = self._patch, self._patch.info, []
        for name, spec in info.tensors.items():
            nnz = info.nnz[name]
            report = TensorReport(name, spec.shape, spec.dtype, nnz, nnz / spec.numel, *self._norms[name])
            if parts:
                mask, values = patch.mask_entry(name), patch.value_entry(name)
                report = replace(report, extents=(_extent(mask, parts), _extent(values, parts)))
            reports.append(report)
        nnz, weights = sum(info.nnz.values()), sum(spec.numel for spec in self._tensors.values())
        header = Extent(0, patch.header.size, parts[""]) if parts else None
        return PatchReport(sha256, info.size, nnz, nnz / weights, info.params, reports, header)


def _extent(entry: Entry, parts: Mapping[str, str]) -> Extent:
    return Extent(entry.start, entry.stop, parts[entry.name])


def limits_for(tensors: Mapping[str, TensorSpec]) -> Limits:
    """Return limits that the header of any patch for this base keeps, even with every character escaped."""
    named = sum(6 * len(name.encode("utf-8")) + 400 for name in tensors)
    return Limits(
        header_bytes=min(PATCH_LIMITS.header_bytes, 4096 + 4 * named),
        entries=min(PATCH_LIMITS.entries, 2 * len(tensors)),
        metadata_bytes=min(PATCH_LIMITS.metadata_bytes, 4096 + 2 * named),
    )


def _check_spec(what: str, name: str, spec: TensorSpec, base: TensorSpec | None) -> None:
    if base is None:
        raise InvalidPatch(f"{what} changes tensor {show(name)}, which the base does not have.", field=name)
    if spec.shape != base.shape:
        raise InvalidPatch(
            f"{what} has tensor {show(name)} with shape {list(spec.shape)}, in the base it is {list(base.shape)}.",
            field=name,
        )
    if spec.dtype != base.dtype:
        raise InvalidPatch(
            f"{what} has tensor {show(name)} as {spec.dtype}, in the base it is {base.dtype}.", field=name
        )


def _read_bits(patch: Patch, entry: Entry, buffer: Octets, size: int, nnz: int) -> Iterator[tuple[str, memoryview]]:
    """Read the mask of a tensor of `size` elements, of which `nnz` have values."""
    ones = 0
    for view, _, stop in _blocks_of(patch, entry, buffer):
        ones += count_bits(buffer, len(view))
        if stop == entry.numel and size % 8 and view[-1] >> size % 8:
            raise InvalidPatch(
                f"Entry {show(entry.name)}: a padding bit after its {size} bits is set.", field=entry.name
            )
        yield entry.name, view
    if ones != nnz:
        raise InvalidPatch(
            f"Entry {show(entry.name)}: it sets {ones} bits, and there are {nnz} values.", field=entry.name
        )


def _read_indices(patch: Patch, entry: Entry, buffer: Octets, size: int, nnz: int) -> Iterator[tuple[str, memoryview]]:
    """Read the indices of a tensor of `size` elements."""
    last = -1
    for view, _, _ in _blocks_of(patch, entry, buffer):
        indices = buffer[: len(view)].view(NUMPY[entry.dtype])
        if int(indices.min()) < 0 or int(indices.max()) >= size:
            raise InvalidPatch(f"Entry {show(entry.name)}: an index is outside 0..{size - 1}.", field=entry.name)
        if int(indices[0]) <= last or not (indices[1:] > indices[:-1]).all():
            raise InvalidPatch(f"Entry {show(entry.name)}: its indices do not strictly increase.", field=entry.name)
        last = int(indices[-1])
        yield entry.name, view


def _read_values(
    patch: Patch, entry: Entry, buffer: Octets, size: int, nnz: int
) -> Generator[tuple[str, memoryview], None, tuple[float, float, float]]:
    """Read the values of a tensor; return their L1, L2 and largest magnitude."""
    l1, squares, linf = 0.0, 0.0, 0.0
    for view, start, stop in _blocks_of(patch, entry, buffer):
        total, more, largest, bad = measure_values(buffer, CODES[entry.dtype], DTYPES[entry.dtype], stop - start)
        if bad >= 0:
            raise InvalidPatch(f"Entry {show(entry.name)}: value number {start + bad} is NaN or Inf.", field=entry.name)
        l1, squares, linf = l1 + total, squares + more, max(linf, largest)
        yield entry.name, view
    return l1, math.sqrt(squares), linf


def _blocks_of(patch: Patch, entry: Entry, buffer: Octets) -> Iterator[tuple[memoryview, int, int]]:
    """Yield the blocks of an entry, read into the buffer, with their elements."""
    width = DTYPES[entry.dtype]
    for start, stop in blocks(entry.numel):
        view = octets(buffer)[: (stop - start) * width]
        patch.fill(view, entry.name, start * width)
        yield view, start, stop

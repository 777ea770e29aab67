"""Checks of a stranger's patch file: every rule of the format, for the base it must be for, in bounded memory.

The header comes first (header_reader.py, layout.py): after that every length is the base's, not the file's. Then the
data, block by block: padding bits, number of set bits, order and range of indices, finite values. Statistics are
computed from the values and not taken from the file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from registry.breadcrumbs.formats.arrays import Octets, octets, read_numbers
from registry.breadcrumbs.formats.blocks import BLOCK_ELEMENTS, HASH_BYTES, blocks
from registry.breadcrumbs.formats.header import DTYPES, PATCH_LIMITS, Limits, TensorSpec, show
from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.patchfile import Patch, called, open_patch
from registry.breadcrumbs.kernels.check import measure_values
from registry.breadcrumbs.kernels.constants import CODES, PAD
from registry.breadcrumbs.kernels.sha256.streams import hash_each, new_hash, update_each
from registry.errors import BaseMismatch, InvalidPatch
from registry.files.hashing import Extent, Hash, read_file
from registry.files.progress import Meter, Progress
from registry.files.threads import call_each


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
        progress: Called with (bytes read, bytes to read); every byte is read twice.
        extents: Whether to hash each part of the file by itself, too, so that whoever needs one can verify it.

    Returns:
        Its digest, size and statistics.

    Raises:
        InvalidPatch: The file breaks a rule; the message names the entry and the rule.
        BaseMismatch: The patch was made for another base.
    """
    return _check(path, base, tensors, Meter(2 * path.stat().st_size, progress), extents)


def check_patches(
    paths: Sequence[Path], base: str, tensors: Mapping[str, TensorSpec], progress: Progress | None = None
) -> list[PatchReport]:
    """Check patch files as `check_patch` does, as many at a time as there are processors, and hash them in pairs."""
    meter = Meter(2 * sum(path.stat().st_size for path in paths), progress)
    reports = call_each(
        lambda number: _check(paths[number], base, tensors, meter, hashed=False), range(len(paths)), name="check"
    )
    digests = hash_each([partial(read_file, path) for path in paths], meter.add)
    return [replace(report, sha256=sha256) for report, sha256 in zip(reports.values(), digests, strict=True)]


def _check(
    path: Path,
    base: str,
    tensors: Mapping[str, TensorSpec],
    meter: Meter,
    extents: bool = False,
    *,
    hashed: bool = True,
) -> PatchReport:
    """Check a file; without `hashed` its report has no sha256."""
    with open_patch(path, limits_for(tensors)) as patch:
        info = patch.info
        if info.base != base:
            raise BaseMismatch(
                f"{called(path)} was made for base {info.base}, and this model's base is {base}.", field="base"
            )
        for name, spec in info.tensors.items():
            _check_spec(called(path), name, spec, tensors.get(name))
        buffer = np.zeros(min(max(info.nnz.values()), BLOCK_ELEMENTS) * 4 + PAD, np.uint8)
        reports = [_check_tensor(patch, name, meter, buffer) for name in info.tensors]
        sha256, header = "", None
        if extents:
            sha256, header, parts = _hash_parts(patch, meter)
            reports = [replace(report, extents=_extents_of(patch, report.name, parts)) for report in reports]
        elif hashed:
            whole = new_hash()
            _hash(patch, 0, info.size, [whole], meter)
            sha256 = whole.hexdigest()
    nnz = sum(info.nnz.values())
    weights = sum(spec.numel for spec in tensors.values())
    return PatchReport(sha256, info.size, nnz, nnz / weights, info.params, reports, header)


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


def _check_tensor(patch: Patch, name: str, meter: Meter, buffer: Octets) -> TensorReport:
    spec, nnz = patch.info.tensors[name], patch.info.nnz[name]
    mask = patch.mask_entry(name)
    if mask.dtype == "U8":
        _check_bitmask(patch, mask.name, spec.numel, nnz, meter)
    else:
        _check_indices(patch, mask.name, spec.numel, nnz, meter)
    l1, squares, linf = 0.0, 0.0, 0.0
    values = patch.value_entry(name)
    width = DTYPES[values.dtype]
    for start, stop in blocks(nnz):
        length = (stop - start) * width
        patch.fill(octets(buffer)[:length], values.name, start * width)
        meter.add(length)
        total, more, largest, bad = measure_values(buffer, CODES[values.dtype], width, stop - start)
        if bad >= 0:
            raise InvalidPatch(
                f"Entry {show(values.name)}: value number {start + bad} is NaN or Inf.", field=values.name
            )
        l1, squares, linf = l1 + float(total), squares + float(more), max(linf, float(largest))
    return TensorReport(name, spec.shape, spec.dtype, nnz, nnz / spec.numel, l1, math.sqrt(squares), linf)


def _check_bitmask(patch: Patch, entry: str, size: int, nnz: int, meter: Meter) -> None:
    length, ones = (size + 7) // 8, 0
    for start, stop in blocks(length):
        packed = read_numbers(patch, entry, start, stop)
        meter.add(packed.size)
        ones += int(np.bitwise_count(packed).sum())
        if stop == length and size % 8 and int(packed[-1]) >> size % 8:
            raise InvalidPatch(f"Entry {show(entry)}: a padding bit after its {size} bits is set.", field=entry)
    if ones != nnz:
        raise InvalidPatch(f"Entry {show(entry)}: it sets {ones} bits, and there are {nnz} values.", field=entry)


def _check_indices(patch: Patch, entry: str, size: int, nnz: int, meter: Meter) -> None:
    last = -1
    for start, stop in blocks(nnz):
        indices = read_numbers(patch, entry, start, stop)
        meter.add(indices.nbytes)
        if int(indices.min()) < 0 or int(indices.max()) >= size:
            raise InvalidPatch(f"Entry {show(entry)}: an index is outside 0..{size - 1}.", field=entry)
        if int(indices[0]) <= last or not (indices[1:] > indices[:-1]).all():
            raise InvalidPatch(f"Entry {show(entry)}: its indices do not strictly increase.", field=entry)
        last = int(indices[-1])


def _hash_parts(patch: Patch, meter: Meter) -> tuple[str, Extent, dict[str, Extent]]:
    """Hash a file, and beside it each of its parts: return its sha256, its header, and its entries by name."""
    whole, parts = new_hash(), dict[str, Extent]()
    entries = [(entry.name, entry.start, entry.stop) for entry in patch.header.entries.values()]
    for name, start, stop in [("", 0, patch.header.size), *entries]:  # as they follow each other in the file
        part = new_hash()
        _hash(patch, start, stop, [whole, part], meter)
        parts[name] = Extent(start, stop, part.hexdigest())
    return whole.hexdigest(), parts.pop(""), parts


def _hash(patch: Patch, start: int, stop: int, hashes: Sequence[Hash], meter: Meter) -> None:
    """Give each of some hashes the bytes start..stop - 1 of a file."""
    buffer = memoryview(bytearray(min(HASH_BYTES, stop - start)))
    for at, end in blocks(stop - start, HASH_BYTES):
        view = buffer[: end - at]
        patch.fill_from_file(view, start + at)
        update_each([(each, view) for each in hashes])
        meter.add(end - at)


def _extents_of(patch: Patch, name: str, parts: Mapping[str, Extent]) -> tuple[Extent, Extent]:
    return parts[patch.mask_entry(name).name], parts[patch.value_entry(name).name]

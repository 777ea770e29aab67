"""Making: the delta between two revisions of one model, both read once.

    before, after --blocks--> elements that differ --> masks, values, steps, each in a temporary file --> the delta file

A mask is kept as a bitmask while a tensor is read, since only its end tells which of the two kinds is smaller, and
whether the tensor takes fewer bytes with steps or without.
"""

import hashlib
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.deltas.delta_file import DeltaInfo, Ends, format_metadata, lay_out, takes_steps, units
from registry.breadcrumbs.formats.arrays import octets
from registry.breadcrumbs.formats.blocks import blocks, fill
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import DTYPES, PATCH_LIMITS, TensorSpec, format_header, format_strings
from registry.breadcrumbs.formats.layout import EntryLayout
from registry.errors import CheckpointMismatch, InvalidInput, InvalidRequest, WrongState
from registry.files.durable import new_files
from registry.files.hashing import BLOCK
from registry.files.progress import Meter, Progress

NEAR = range(-128, 128)
"""Steps: how much the bits of an element may differ, taken as integers, to be told as a difference."""


@dataclass(frozen=True)
class _Group:
    """Elements of a tensor that two entries are about: those that differ by little, the others, or all (None)."""

    near: bool | None
    entries: Sequence[EntryLayout]

    @property
    def size(self) -> int:
        """The bytes of the entries."""
        return sum(shape[0] * DTYPES[dtype] for _, dtype, shape in self.entries)


@dataclass(frozen=True)
class _Scratch:
    """Temporary files: bitmasks, what is new, and how much of it differs (int16, of elements of two bytes)."""

    masks: BinaryIO
    values: BinaryIO
    steps: BinaryIO


@dataclass(frozen=True)
class _Kept:
    """What is kept of a tensor: how many elements differ, how many of them by little, and where its parts begin."""

    nnz: int
    near: int
    mask: int
    values: int
    steps: int


def make_delta(
    before: Checkpoint,
    after: Checkpoint,
    out: Path,
    ends: Ends,
    carried: Mapping[str, Path],
    progress: Progress | None = None,
    *,
    steps: bool = True,
) -> DeltaInfo:
    """Write the delta between two revisions. Same inputs, same bytes.

    Args:
        before, after: Their weights, in the same files with the same headers.
        out: The file to write; it appears whole or not at all, and replaces a file of that name.
        ends: What they are; the caller has hashed them.
        carried: The files of `ends.carried`.
        progress: Called with (bytes read, bytes to read).
        steps: Whether small differences are told as such where that takes fewer bytes; False for programs that cannot
            read the earlier revision.

    Raises:
        CheckpointMismatch: The two hold their weights in other files, or with other headers.
        InvalidRequest: They do not differ, or readers do not take so long a header.
        WrongState: A carried file changed while it was read.
    """
    _check_alike(before, after)
    meter = Meter(2 * before.size, progress)
    with ExitStack() as stack:
        scratch = _Scratch(*(stack.enter_context(tempfile.TemporaryFile(dir=out.parent)) for _ in range(3)))
        kept = {name: _compare(before, after, name, scratch, meter) for name in before.tensors}
        kept = {name: tensor for name, tensor in kept.items() if tensor.nnz}
        if not kept and not carried and all(old == new for old, new in ends.files.values()):
            raise InvalidRequest("The two revisions are the same; no delta was written.")
        tensors = {name: before.tensors[name] for name in kept}
        groups = {name: _choose(name, spec, kept[name], before.tensors, steps) for name, spec in tensors.items()}
        entries = [entry for name in kept for group in groups[name] for entry in group.entries]
        sizes = {path: file.stat().st_size for path, file in sorted(carried.items())}
        header = format_header(
            [*entries, *((f"{path}.file", "U8", (size,)) for path, size in sizes.items())],
            format_metadata(ends, tensors),
        )
        _check_header(header, format_metadata(ends, tensors), len(entries) + len(carried))
        for file in (scratch.masks, scratch.values, scratch.steps):
            file.flush()
        with new_files([out]) as (file,):
            file.write(header)
            for name, tensor in kept.items():
                for group in groups[name]:
                    _write_group(scratch, tensor, tensors[name], group, file)
            for path, size in sizes.items():
                _write_file(carried[path], size, ends.files[path][1], file)
            total = file.tell()
    return DeltaInfo(ends, tensors, {name: tensor.nnz for name, tensor in kept.items()}, total)


def _check_alike(before: Checkpoint, after: Checkpoint) -> None:
    """Check that two revisions have the same weight files, but for the bytes of the tensors."""
    if before.files.keys() != after.files.keys():
        raise CheckpointMismatch(
            f"One holds its weights in {', '.join(before.files)}, the other in {', '.join(after.files)}; a delta is "
            "between two revisions of one model, in the same files."
        )
    for name in before.files:
        if before.read_header_bytes(name) != after.read_header_bytes(name):
            raise CheckpointMismatch(
                f"{name} holds other tensors, or in another order, in one than in the other; a delta is between two "
                "revisions of one model.",
                field=name,
            )


def _compare(before: Checkpoint, after: Checkpoint, name: str, scratch: _Scratch, meter: Meter) -> _Kept:
    """Append what differs in a tensor to the temporary files, or nothing if nothing does."""
    size, dtype = units(before.tensors[name])
    begins = scratch.masks.tell(), scratch.values.tell(), scratch.steps.tell()
    nnz = near = 0
    for start, stop in blocks(size):
        old, new = (_read(side, name, start, stop, DTYPES[dtype]) for side in (before, after))
        differs = old != new
        scratch.masks.write(octets(np.packbits(differs, bitorder="little")))
        count = int(np.count_nonzero(differs))
        if count:
            changed = new[differs]
            scratch.values.write(octets(changed))
            if takes_steps(name, before.tensors[name], before.tensors):
                steps = (changed - old[differs]).view("<i2")  # modulo 2^16
                scratch.steps.write(octets(steps))
                near += int(np.count_nonzero(_are_near(steps)))
        nnz += count
        meter.add(2 * old.nbytes)
    if not nnz:
        scratch.masks.seek(begins[0])
    return _Kept(nnz, near, *begins)


def _are_near(steps: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    return (steps >= NEAR[0]) & (steps <= NEAR[-1])


def _read(side: Checkpoint, name: str, start: int, stop: int, width: int) -> npt.NDArray[Any]:
    """Read elements of `width` bytes as integers, [stop - start]."""
    raw = np.empty(stop - start, f"<u{width}")
    side.fill(octets(raw), name, start * width)
    return raw


def _choose(name: str, spec: TensorSpec, kept: _Kept, names: Collection[str], steps: bool) -> list[_Group]:
    """Return the groups of a tensor's elements: one, or two if they take fewer bytes and no tensor has that name."""
    far = kept.nnz - kept.near
    whole = [_Group(None, lay_out(name, spec, kept.nnz, 0))]
    split = [_Group(False, lay_out(name, spec, far, 0)), _Group(True, lay_out(name, spec, 0, kept.near))]
    fewer = sum(group.size for group in split) < sum(group.size for group in whole)
    return [group for group in split if group.entries] if fewer and steps and takes_steps(name, spec, names) else whole


def _write_group(scratch: _Scratch, kept: _Kept, spec: TensorSpec, group: _Group, file: BinaryIO) -> None:
    """Write the mask and the values of a group of a tensor's elements, each in one pass over what is kept."""
    (_, mask, _), _ = group.entries
    for start, bits, _ in _again(scratch, kept, spec, group):
        if mask == "U8":
            file.write(octets(np.packbits(bits, bitorder="little")))
        else:
            file.write(octets((np.flatnonzero(bits) + start).astype(f"<i{DTYPES[mask]}")))
    for _, _, values in _again(scratch, kept, spec, group):
        file.write(octets(values))


def _again(
    scratch: _Scratch, kept: _Kept, spec: TensorSpec, group: _Group
) -> Iterator[tuple[int, npt.NDArray[np.bool_], npt.NDArray[Any]]]:
    """Read what is kept of a tensor again: the start of each block, which elements are of the group, their values."""
    size, dtype = units(spec)
    used, width = 0, DTYPES[dtype]
    for start, stop in blocks(size):
        packed = _take(scratch.masks, kept.mask + start // 8, (stop - start + 7) // 8, "|u1")
        bits = np.unpackbits(packed, count=stop - start, bitorder="little").view(np.bool_)
        count = int(np.count_nonzero(bits))
        values = _take(scratch.values, kept.values + used * width, count, f"<u{width}")
        if group.near is not None:
            steps = _take(scratch.steps, kept.steps + used * width, count, "<i2")
            chosen = _are_near(steps) == group.near
            values = steps[chosen].astype(np.int8) if group.near else values[chosen]
            bits[bits] = chosen
        yield start, bits, values
        used += count


def _take(file: BinaryIO, at: int, count: int, dtype: str) -> npt.NDArray[Any]:
    """Read numbers of a temporary file."""
    found = np.empty(count, dtype)
    fill(octets(found), file.fileno(), at, "A temporary file", InvalidInput)
    return found


def _write_file(source: Path, size: int, sha256: str, file: BinaryIO) -> None:
    digest, length = hashlib.sha256(), 0
    with source.open("rb") as opened:
        while block := opened.read(BLOCK):
            digest.update(block)
            length += len(block)
            file.write(block)
    if (length, digest.hexdigest()) != (size, sha256):
        raise WrongState(f"{source} changed while it was read; run the command again.")


def _check_header(header: bytes, metadata: Mapping[str, str], entries: int) -> None:
    """Refuse to write what readers would refuse."""
    for what, count, most in (
        ("a header of bytes", len(header) - 8, PATCH_LIMITS.header_bytes),
        ("metadata of characters", len(format_strings(metadata)), PATCH_LIMITS.metadata_bytes),
        ("entries", entries, PATCH_LIMITS.entries),
    ):
        if count > most:
            raise InvalidRequest(f"The delta would have more {what} than readers take: {count:,}, not {most:,}.")

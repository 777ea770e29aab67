"""Making: the delta between two revisions of one model, both read once.

    before, after --blocks--> elements that differ --> masks, values, each in a temporary file --> the delta file

A mask is kept as a bitmask while a tensor is read, since only its end tells which of the two kinds is smaller.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.deltas.delta_file import DeltaInfo, Ends, format_metadata, lay_out, units
from registry.breadcrumbs.formats.arrays import octets
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import DTYPES, PATCH_LIMITS, format_header, format_strings
from registry.errors import CheckpointMismatch, InvalidRequest, WrongState
from registry.files.copying import copy_range
from registry.files.durable import new_files
from registry.files.hashing import BLOCK
from registry.files.progress import Meter, Progress


@dataclass(frozen=True)
class _Kept:
    """What is kept of a tensor: the number of elements that differ, and where mask and values begin."""

    nnz: int
    mask: int
    values: int


def make_delta(
    before: Checkpoint,
    after: Checkpoint,
    out: Path,
    ends: Ends,
    carried: Mapping[str, Path],
    progress: Progress | None = None,
) -> DeltaInfo:
    """Write the delta between two revisions. Same inputs, same bytes.

    Args:
        before, after: Their weights, in the same files with the same headers.
        out: The file to write; it appears whole or not at all, and replaces a file of that name.
        ends: What they are; the caller has hashed them.
        carried: The files of `ends.carried`.
        progress: Called with (bytes read, bytes to read).

    Raises:
        CheckpointMismatch: The two hold their weights in other files, or with other headers.
        InvalidRequest: They do not differ, or readers do not take so long a header.
        WrongState: A carried file changed while it was read.
    """
    _check_alike(before, after)
    meter = Meter(2 * before.size, progress)
    with ExitStack() as stack:
        masks, values = (stack.enter_context(tempfile.TemporaryFile(dir=out.parent)) for _ in range(2))
        kept = {name: _compare(before, after, name, masks, values, meter) for name in before.tensors}
        kept = {name: tensor for name, tensor in kept.items() if tensor.nnz}
        if not kept and not carried and all(old == new for old, new in ends.files.values()):
            raise InvalidRequest("The two revisions are the same; no delta was written.")
        tensors = {name: before.tensors[name] for name in kept}
        layouts = {name: lay_out(name, spec, kept[name].nnz) for name, spec in tensors.items()}
        sizes = {path: file.stat().st_size for path, file in sorted(carried.items())}
        header = format_header(
            [
                *(entry for pair in layouts.values() for entry in pair),
                *((f"{path}.file", "U8", (size,)) for path, size in sizes.items()),
            ],
            format_metadata(ends, tensors),
        )
        _check_header(header, format_metadata(ends, tensors), 2 * len(kept) + len(carried))
        masks.flush()
        values.flush()
        with new_files([out]) as (file,):
            file.write(header)
            for name, tensor in kept.items():
                size, dtype = units(tensors[name])
                _write_mask(masks, tensor, size, layouts[name][0][1], file)
                _append(values, tensor.values, tensor.nnz * DTYPES[dtype], file)
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


def _compare(
    before: Checkpoint, after: Checkpoint, name: str, masks: BinaryIO, values: BinaryIO, meter: Meter
) -> _Kept:
    """Append the mask and the values of a tensor to the temporary files, or nothing if it does not differ."""
    size, dtype = units(before.tensors[name])
    nnz, start_of_mask, start_of_values = 0, masks.tell(), values.tell()
    for start, stop in blocks(size):
        old, new = (_read(side, name, start, stop, DTYPES[dtype]) for side in (before, after))
        differs = old != new
        masks.write(octets(np.packbits(differs, bitorder="little")))
        count = int(np.count_nonzero(differs))
        if count:
            values.write(octets(new[differs]))
        nnz += count
        meter.add(2 * old.nbytes)
    if not nnz:
        masks.seek(start_of_mask)
    return _Kept(nnz, start_of_mask, start_of_values)


def _read(side: Checkpoint, name: str, start: int, stop: int, width: int) -> npt.NDArray[Any]:
    """Read elements of `width` bytes as integers, [stop - start]."""
    raw = np.empty(stop - start, f"<u{width}")
    side.fill(octets(raw), name, start * width)
    return raw


def _write_mask(masks: BinaryIO, tensor: _Kept, size: int, dtype: str, file: BinaryIO) -> None:
    """Write a tensor's mask as it is, or as indices of a dtype."""
    if dtype == "U8":
        _append(masks, tensor.mask, (size + 7) // 8, file)
        return
    masks.seek(tensor.mask)
    for start, stop in blocks(size):
        bits = np.unpackbits(np.frombuffer(masks.read((stop - start + 7) // 8), np.uint8), bitorder="little")
        file.write(octets((np.flatnonzero(bits) + start).astype(f"<i{DTYPES[dtype]}")))


def _append(source: BinaryIO, start: int, length: int, file: BinaryIO) -> None:
    file.flush()
    copy_range(source.fileno(), file.fileno(), start, start + length, file.tell())
    file.seek(length, 1)


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

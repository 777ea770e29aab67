"""The patch file: diff writes it, open_patch reads it; layout.py says what is in it.

    base --blocks--> sha256 per tensor ------------------------------> weights digest
    base, tuned --blocks--> delta (float32, one tensor) -> mask -> spool -> the patch file, atomically

Tensors follow in name order, each its mask and then its values. Same inputs give the same bytes; the patch's
identity is the sha256 of the file. diff reads both checkpoints once, and its memory is 5 bytes per element of the
largest tensor and a constant.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import torch

from registry.breadcrumbs.checkpoint import TORCH, Checkpoint, Meter, Progress, blocks, digest_of, octets, read_bytes
from registry.breadcrumbs.durable import new_files
from registry.breadcrumbs.header import (
    DTYPES,
    FLOATS,
    PATCH_LIMITS,
    Entry,
    Flaw,
    Header,
    Limits,
    TensorSpec,
    format_header,
    read_header,
    show,
)
from registry.breadcrumbs.layout import MaskParams as MaskParams
from registry.breadcrumbs.layout import PatchInfo as PatchInfo
from registry.breadcrumbs.layout import format_metadata, layout, read_info
from registry.breadcrumbs.mask import breadcrumb_mask, subtract
from registry.breadcrumbs.pairing import pair
from registry.breadcrumbs.select import Bools, Floats
from registry.errors import CheckpointMismatch, InvalidCheckpoint, InvalidPatch

COPY = 2**22


def diff(
    base: Checkpoint,
    tuned: Checkpoint,
    out: Path,
    params: MaskParams | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
) -> PatchInfo:
    """Write the patch from base to tuned. Same inputs, same bytes.

    Args:
        base: The base.
        tuned: The fine-tuned checkpoint.
        out: Where the patch is to be; it appears whole or not at all, and replaces a file already there.
        params: How to mask; the defaults when None.
        include: Globs on tensor names; when there are any, other tensors are left out.
        exclude: Globs on tensor names to leave out, neither read from tuned nor compared.
        progress: Called with (bytes read, bytes to read).

    Returns:
        What was written, with the file's sha256.

    Raises:
        CheckpointMismatch: The two do not fit together, or integer tensors differ.
        InvalidCheckpoint: NaN or Inf in either.
        InvalidPatch: Nothing changed, or a value does not fit its dtype.
    """
    params = params or MaskParams()
    pairing = pair(base, tuned, include, exclude)
    compared = [*pairing.partner.values(), *(name for pair_ in pairing.same for name in pair_)]
    meter = Meter(base.size + sum(_bytes(tuned.tensors[name]) for name in compared), progress)
    for extra, other in pairing.same:
        _check_same(tuned, extra, other, meter)
    digests: dict[str, str] = {}
    floats = [name for name in pairing.partner if base.tensors[name].dtype in FLOATS]
    unequal = []
    for name in base.tensors.keys() - set(floats):
        digests[name], equal = _compare(base, name, tuned, pairing.partner.get(name), meter)
        if not equal:
            unequal.append(name)
    if unequal:
        told = ", ".join(show(name) for name in sorted(unequal)[:20])
        more = f" and {len(unequal) - 20} more" if len(unequal) > 20 else ""
        raise CheckpointMismatch(
            f"Integer or bool tensors differ: {told}{more}; they have no task direction. Leave them out with exclude.",
            field=min(unequal),
        )
    largest = max((base.tensors[name].numel for name in floats), default=0)
    delta, keep = np.empty(largest, np.float32), np.empty(largest, np.bool_)
    with new_files([out]) as (file,), tempfile.TemporaryFile(dir=out.parent) as spool:
        tensors: dict[str, TensorSpec] = {}
        nnz: dict[str, int] = {}
        changes = 0
        for name in floats:
            spec = base.tensors[name]
            size = spec.numel
            digests[name] = _read_delta(base, name, tuned, pairing.partner[name], delta[:size], meter)
            changes += int(np.count_nonzero(delta[:size]))
            if size == 0:
                continue
            row = None if params.granularity == "tensor" else (spec.shape or (1,))[-1]
            breadcrumb_mask(delta[:size], row, params.drop_bottom, params.drop_top, keep[:size])
            count = int(np.count_nonzero(keep[:size]))
            if count:
                tensors[name], nnz[name] = spec, count
                _write_tensor(spool, delta[:size], keep[:size], layout(name, spec, count, params))
        if not tensors and changes:
            raise InvalidPatch(
                f"The mask keeps none of {changes} changes: they are outliers (drop_top {params.drop_top}) or small "
                f"(drop_bottom {params.drop_bottom}); lower one of the two. No patch was written."
            )
        if not tensors:
            raise InvalidPatch("Nothing changed: base and tuned are equal; no patch was written.")
        digest = digest_of(base.tensors, digests)
        entries = [entry for name in tensors for entry in layout(name, tensors[name], nnz[name], params)]
        header = format_header(entries, format_metadata(digest, params, tensors))
        sha256, total = _assemble(file, header, spool)
    return PatchInfo(digest, params, tensors, nnz, total, sha256)


def _bytes(spec: TensorSpec) -> int:
    return spec.numel * DTYPES[spec.dtype]


def _compare(base: Checkpoint, name: str, tuned: Checkpoint, other: str | None, meter: Meter) -> tuple[str, bool]:
    """Hash a base tensor and compare its bytes with its partner's, where it has one."""
    digest, equal = hashlib.sha256(), True
    for start, stop in blocks(base.tensors[name].numel):
        raw = base.read_raw(name, start, stop)
        digest.update(octets(raw))
        meter.add(raw.numel())
        if other is not None:
            theirs = tuned.read_raw(other, start, stop)
            equal = equal and torch.equal(raw, theirs)
            meter.add(theirs.numel())
    return digest.hexdigest(), equal


def _check_same(tuned: Checkpoint, extra: str, other: str, meter: Meter) -> None:
    if tuned.tensors[extra].dtype == tuned.tensors[other].dtype and _compare(tuned, extra, tuned, other, meter)[1]:
        return
    raise CheckpointMismatch(
        f"The fine-tuning untied {show(extra)} from {show(other)}: the base ties them and holds one, the tuned "
        "checkpoint holds two that differ. Untie them in the base first, or leave one out with exclude.",
        field=extra,
    )


def _read_delta(base: Checkpoint, name: str, tuned: Checkpoint, other: str, delta: Floats, meter: Meter) -> str:
    """Fill the task direction of a tensor, float32 [N]; return the sha256 of the base's bytes."""
    digest = hashlib.sha256()
    bad_base = bad_tuned = 0
    for start, stop in blocks(delta.size):
        raw, theirs = base.read_raw(name, start, stop), tuned.read(other, start, stop)
        digest.update(octets(raw))
        meter.add(raw.numel() + theirs.nbytes)
        ours = raw.view(TORCH[base.tensors[name].dtype])
        block = subtract(theirs, ours)
        delta[start:stop] = block.numpy()
        if not bool(torch.isfinite(block).all()):
            bad_base += (stop - start) - int(torch.isfinite(ours).sum())
            bad_tuned += (stop - start) - int(torch.isfinite(theirs).sum())
    for what, bad, at in (("base", bad_base, name), ("tuned", bad_tuned, other)):
        if bad:
            raise InvalidCheckpoint(
                f"Tensor {show(at)} of the {what} checkpoint holds {bad} NaN or Inf; a patch needs finite weights.",
                field=at,
            )
    return digest.hexdigest()


def _write_tensor(
    spool: IO[bytes], delta: Floats, keep: Bools, entries: list[tuple[str, str, tuple[int, ...]]]
) -> None:
    """Append a tensor's mask and values to the spool, block by block."""
    (mask, index_dtype, _), (values, value_dtype, _) = entries
    for start, stop in blocks(keep.size):
        if mask.endswith(".bitmask"):
            spool.write(np.packbits(keep[start:stop], bitorder="little").data)
        else:
            wide: npt.NDArray[np.int64] = np.flatnonzero(keep[start:stop]) + start
            spool.write(wide.astype(np.int32 if index_dtype == "I32" else np.int64).data)
    for start, stop in blocks(keep.size):
        kept = torch.from_numpy(delta[start:stop][keep[start:stop]]).to(TORCH[value_dtype])
        if not bool(torch.isfinite(kept).all()):
            raise InvalidPatch(
                f"A change in {show(values.removesuffix('.values'))} is too large for {value_dtype}; "
                "choose value_dtype F32, or BF16.",
                field=values,
            )
        spool.write(octets(kept))


def _assemble(file: BinaryIO, header: bytes, spool: IO[bytes]) -> tuple[str, int]:
    digest = hashlib.sha256(header)
    file.write(header)
    total = len(header)
    spool.seek(0)
    while chunk := spool.read(COPY):
        digest.update(chunk)
        file.write(chunk)
        total += len(chunk)
    return digest.hexdigest(), total


class Patch:
    """A patch file open for reading; make one with `open_patch`, close it or use `with`.

    Attributes:
        info: What the file says of itself.
    """

    def __init__(self, file: BinaryIO, header: Header, info: PatchInfo) -> None:
        self.info = info
        self._file = file
        self._entries = header.entries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def mask_entry(self, name: str) -> Entry:
        """Return the entry that holds a tensor's mask, `<name>.bitmask` or `<name>.indices`."""
        return self._entries.get(f"{name}.bitmask") or self._entries[f"{name}.indices"]

    def read_entry(self, entry: str, start: int, stop: int) -> torch.Tensor:
        """Read elements of an entry, [stop - start] of its dtype, into fresh memory."""
        found = self._entries[entry]
        width = DTYPES[found.dtype]
        raw = read_bytes(self._file, found.start + start * width, (stop - start) * width, "The patch", InvalidPatch)
        return raw.view(TORCH[found.dtype])

    def read_file(self, start: int, stop: int) -> torch.Tensor:
        """Read the file's own bytes: uint8 [stop - start]."""
        return read_bytes(self._file, start, stop - start, "The patch", InvalidPatch)

    def read_mask(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Read which elements of a block the patch touches.

        Args:
            name: The tensor.
            start: First element of the block, a multiple of 8.
            stop: One past its last element.

        Returns:
            int64 [n], strictly increasing, each in 0..stop - start - 1: places inside the block.

        Raises:
            InvalidPatch: The indices are not in order; so nothing is ever written outside the block.
        """
        entry = self.mask_entry(name)
        if entry.dtype == "U8":
            packed = self.read_entry(entry.name, start // 8, (stop + 7) // 8).numpy()
            return torch.from_numpy(np.flatnonzero(np.unpackbits(packed, count=stop - start, bitorder="little")))
        first, last = self._find(entry, start), self._find(entry, stop)
        places = self.read_entry(entry.name, first, max(first, last)).long() - start
        if places.numel():
            inside = int(places[0]) >= 0 and int(places[-1]) < stop - start
            if not inside or not bool((places[1:] > places[:-1]).all()):
                raise InvalidPatch(f"Entry {show(entry.name)}: its indices do not strictly increase.", field=entry.name)
        return places

    def _find(self, entry: Entry, index: int) -> int:
        """Find how many indices lie below `index`, by bisection on disk."""
        low, high = 0, entry.shape[0]
        while low < high:
            middle = (low + high) // 2
            if int(self.read_entry(entry.name, middle, middle + 1)[0]) < index:
                low = middle + 1
            else:
                high = middle
        return low

    def read_values(self, name: str, start: int, stop: int) -> torch.Tensor:
        """Read values number start..stop - 1 of a tensor: [stop - start] of the stored dtype."""
        return self.read_entry(f"{name}.values", start, stop)


def called(path: Path) -> str:
    """Return what messages call a patch file: its name, unless it is stored under its digest."""
    return f"The patch {path.name}" if path.suffix else "The patch"


def open_patch(path: Path, limits: Limits = PATCH_LIMITS) -> Patch:
    """Open a patch file, checking everything that its header says; the data is checked by `check_patch`.

    Raises:
        InvalidPatch: It breaks a rule; the message names the entry and the rule.
    """
    file = path.open("rb", buffering=0)
    try:
        size = os.fstat(file.fileno()).st_size
        header = read_header(file, size, called(path), limits, InvalidPatch)
        try:
            return Patch(file, header, read_info(header, size, limits))
        except Flaw as flaw:
            raise flaw.told(called(path), InvalidPatch) from None
    except BaseException:
        file.close()
        raise

"""Diffs: write the patch from a base to a fine-tuned checkpoint.

    base, tuned --blocks--> changes (one thread a tensor) --> mask and values, in their place --> the patch file,
         └── sha256 of each tensor of the base ---------------> weights digest in its header      atomically

Both checkpoints are read once. Several tensors are compared at a time, the largest first. They lie in the patch in name
order, each its mask and then its values. A tensor keeps as many elements as its shares say, unless too few of them
changed at all; so places are planned as if that never happened, and what turns out smaller is moved up when the file
is hashed. Same inputs give the same bytes; the patch's identity is their sha256.
"""

import hashlib
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import BinaryIO

import numpy as np

from registry.breadcrumbs.diffing.changes import Changes, MaskFinder, Workspace
from registry.breadcrumbs.diffing.faults import NAMES_SHOWN, exclude_options
from registry.breadcrumbs.diffing.mask import groups_of, rounds
from registry.breadcrumbs.diffing.notes import name_dtypes, tell
from registry.breadcrumbs.diffing.pairing import Choice, Pairing, SharedRows, pair
from registry.breadcrumbs.diffing.quantised import NARROW, find_quantiser
from registry.breadcrumbs.formats.arrays import count_not_finite, read_raw
from registry.breadcrumbs.formats.blocks import HASH_BYTES, blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.digest import digest_of
from registry.breadcrumbs.formats.header import DTYPES, FLOATS, TensorSpec, show
from registry.breadcrumbs.formats.layout import MaskParams, PatchInfo, layout
from registry.breadcrumbs.formats.places import patch_header, plan, settle
from registry.breadcrumbs.kernels.check import measure_change
from registry.breadcrumbs.kernels.constants import CODES
from registry.breadcrumbs.kernels.devices import pick_device
from registry.errors import CheckpointMismatch, InvalidCheckpoint, InvalidPatch
from registry.files.copying import Appender
from registry.files.durable import new_files
from registry.files.progress import Meter, Progress
from registry.files.threads import call_each


@dataclass(frozen=True)
class Diffed(PatchInfo):
    """The patch that `diff` wrote.

    Args:
        pairing: How base and tuned checkpoint were paired.
        relative_change: norm(tuned - base) / norm(base) of the tensors that were compared; None if they are 0 in the
            base.
        matrix_change: The same of tensors of two dimensions or more, which unrelated models do not share.
        notes: What whoever diffs should know of the comparison, each a sentence.
    """

    pairing: Pairing = field(default_factory=lambda: Pairing({}, []), compare=False)
    relative_change: float | None = field(default=None, compare=False)
    matrix_change: float | None = field(default=None, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)


def diff(
    base: Checkpoint,
    tuned: Weights,
    out: Path,
    params: MaskParams | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
    *,
    device: str = "cpu",
    threads: int | None = None,
    device_memory: int | None = None,
    strip_prefix: str | None = None,
    shared_only: bool = False,
    shared_rows: bool = False,
    named: str | None = None,
) -> Diffed:
    """Write the patch from base to tuned. Same inputs, same bytes.

    Args:
        base: The base.
        tuned: The fine-tuned checkpoint, or the base with an adapter.
        out: The file to write; it appears whole or not at all, and replaces a file of that name.
        params: How to mask; the defaults when None.
        include: Globs on tensor names; when there are any, other tensors are left out.
        exclude: Globs on tensor names to leave out, neither read from tuned nor compared.
        progress: Called with (bytes read, bytes to read), from one thread at a time.
        device: `auto`, `cpu` or `cuda`: where the masks of whole tensors are found; it changes no byte.
        threads: How many tensors are compared at a time; as many as there are processors when None.
        device_memory: Most bytes to use on a GPU; the smaller of 4 GiB and a quarter of what is free when None.
        strip_prefix: Taken from the names of the side that has it; found by itself when None.
        shared_only: Whether tensors that only one side has, or that have other shapes, are left out.
        shared_rows: Whether of tensors that differ in their first dimension the rows that both have are compared.
        named: Weights digest of the base that the patch is for, if that is not what is compared, but has the same
            tensors: what was tuned from a composition adds its changes to those of the composition's patches.

    Returns:
        What was written, with the file's sha256, and how the two were paired.

    Raises:
        CheckpointMismatch: The two do not fit together, or integer tensors differ.
        InvalidCheckpoint: A tensor of one of them holds NaN or Inf.
        InvalidPatch: Nothing changed, a value does not fit its dtype, or readers do not take so long a header.
    """
    params = params or MaskParams()
    gpu = None if pick_device(device) == "cpu" else open_gpu(device_memory)
    pairing = pair(base, tuned, Choice(include, exclude, strip_prefix, shared_only, shared_rows))
    given = tuned
    if pairing.rows:
        tuned = SharedRows(base, tuned, {pairing.partner[name]: name for name in pairing.rows})
    floats = [name for name in pairing.partner if base.tensors[name].dtype in FLOATS]
    most = {name: groups_of(base.tensors[name], params).most for name in floats if base.tensors[name].numel}
    places = plan(base.tensors, most, params)
    read = [*pairing.partner.values(), *(name for pair_ in pairing.same for name in pair_)]
    meter = Meter(base.size + sum(map(tuned.bytes_of, read)), progress)
    digests = _compare_integers(base, tuned, pairing, meter)
    rounded = [name for name in floats if rounds(base.tensors[name].dtype, tuned.dtype_of(pairing.partner[name]))]
    with new_files([out]) as (file,), ExitStack() as stack:
        workspaces = _Workspaces(lambda: stack.enter_context(Workspace(out.parent, gpu)))
        comparison = _Comparison(base, tuned, pairing.partner, params, places, file, meter, workspaces)
        largest_first = sorted(floats, key=base.bytes_of, reverse=True)
        tensors = call_each(comparison.compare, largest_first, threads, "diff")
        digests |= {name: tensor.digest for name, tensor in tensors.items()}
        kept = {name: tensors[name] for name in floats if tensors[name].nnz}
        if not kept:
            changes = sum(tensor.total for tensor in tensors.values())
            same = (
                f", once the base is rounded to {name_dtypes(given, pairing, rounded)} as tuned was" if rounded else ""
            )
            raise InvalidPatch(
                f"The mask keeps none of {changes} changes: they are outliers (drop_top {params.drop_top}) or small "
                f"(drop_bottom {params.drop_bottom}); lower one of the two. No patch was written."
                if changes
                else f"Nothing changed: base and tuned are equal{same}; no patch was written."
            )
        digest = named or digest_of(base.tensors, digests)
        header = patch_header(base.tensors, {name: tensor.nnz for name, tensor in kept.items()}, digest, params)
        parts = [(places[name], tensor.length) for name, tensor in kept.items()]
        sha256, total = settle(file, header, parts, out.parent)
    specs = {name: base.tensors[name] for name in kept}
    matrices = [name for name in floats if len(base.tensors[name].shape) > 1]
    moved, change = (_relative([tensors[name].squares for name in names]) for names in (floats, matrices))
    nnz = {name: tensor.nnz for name, tensor in kept.items()}
    notes = tuple(tell(base, given, pairing, rounded, change))
    return Diffed(digest, params, specs, nnz, total, sha256, pairing, moved, change, notes)


def _relative(squares: Sequence[tuple[float, ...]]) -> float | None:
    """Return norm(tuned - base) / norm(base) from the sums of squares of tensors; None if the base is 0."""
    change, whole = (math.fsum(each[at] for each in squares) for at in (0, 1))
    return math.sqrt(change / whole) if whole else None


def open_gpu(memory: int | None) -> MaskFinder:
    """Open the GPU; `memory` is as of `find_gpu`."""
    from registry.breadcrumbs.diffing.gpu_masks import open_gpu_masks  # imports torch

    return open_gpu_masks(memory)


# Integer tensors, and tensors that are one in the base


def _compare_integers(base: Checkpoint, tuned: Weights, pairing: Pairing, meter: Meter) -> dict[str, str]:
    """Check that tensors without a task direction are equal; return the sha256 of the base's tensors hashed here."""
    for extra, other in pairing.same:
        _check_same(tuned, extra, other, meter)
    digests: dict[str, str] = {}
    unequal = []
    for name, spec in base.tensors.items():
        partner = pairing.partner.get(name)
        if spec.dtype not in FLOATS or partner is None:
            digests[name], equal = _compare(base, name, tuned, partner, meter)
            if not equal:
                unequal.append(name)
    if unequal:
        named = ", ".join(show(name) for name in unequal[:NAMES_SHOWN])
        more = f" and {len(unequal) - NAMES_SHOWN} more" if len(unequal) > NAMES_SHOWN else ""
        kinds = " and ".join(sorted({base.tensors[name].dtype for name in unequal}))
        packed = find_quantiser(base.config, base.tensors)
        if any(base.tensors[name].dtype.startswith(NARROW) for name in unequal) or (packed and packed.packed):
            raise CheckpointMismatch(
                f"{kinds} tensors differ: {named}{more}. They are quantised weights, which no patch can change; use "
                "base and tuned model from before they were quantised.",
                field=unequal[0],
            )
        raise CheckpointMismatch(
            f"{kinds} tensors differ: {named}{more}; only F64, F32, F16 and BF16 have a task direction. Leave them "
            f"out: `{exclude_options(unequal, base.tensors)}`.",
            field=unequal[0],
        )
    return digests


def _compare(base: Weights, name: str, tuned: Weights, other: str | None, meter: Meter) -> tuple[str, bool]:
    """Hash a base tensor and compare its bytes with its partner's, if it has one: (sha256, whether they are equal)."""
    digest, equal = hashlib.sha256(), True
    for start, stop in blocks(base.bytes_of(name), HASH_BYTES):
        raw = _read(base, name, start, stop)
        digest.update(raw)
        meter.add(len(raw))
        if other is not None:
            theirs = _read(tuned, other, start, stop)
            equal = equal and raw == theirs
            meter.add(len(theirs))
    return digest.hexdigest(), equal


def _read(weights: Weights, name: str, start: int, stop: int) -> bytearray:
    raw = bytearray(stop - start)
    weights.fill(memoryview(raw), name, start)
    return raw


def _check_same(tuned: Weights, extra: str, other: str, meter: Meter) -> None:
    """Check that two tensors of the tuned checkpoint, which the base ties, are equal."""
    if tuned.tensors[extra].dtype == tuned.tensors[other].dtype and _compare(tuned, extra, tuned, other, meter)[1]:
        return
    raise CheckpointMismatch(
        f"The fine-tuning untied {show(extra)} from {show(other)}: the base ties them and holds one, the tuned "
        "checkpoint holds two that differ. Untie them in the base first, or leave out both: "
        f"`--exclude {quote(extra)} --exclude {quote(other)}`.",
        field=extra,
    )


# Floating-point tensors


@dataclass(frozen=True)
class _Compared:
    """A tensor of the base, compared.

    Args:
        digest: sha256 of its bytes.
        total: How many elements changed, as of `Changes`.
        nnz: How many of them stay.
        length: Bytes of mask and values in the patch.
        squares: Sums of the squares of tuned - base and of base.
    """

    digest: str
    total: int = 0
    nnz: int = 0
    length: int = 0
    squares: tuple[float, ...] = (0.0, 0.0)


@dataclass
class _Pair:
    """A tensor of the base and its partner, on disk, and what was read of the partner last."""

    base: Checkpoint
    name: str
    tuned: Weights
    other: str
    last: memoryview = field(default_factory=lambda: memoryview(b""))

    @property
    def numel(self) -> int:
        return self.base.tensors[self.name].numel

    @property
    def dtypes(self) -> tuple[str, str]:
        return self.base.tensors[self.name].dtype, self.tuned.tensors[self.other].dtype

    def read(self, start: int, base: memoryview, tuned: memoryview) -> None:
        self.base.fill(base, self.name, start * DTYPES[self.dtypes[0]])
        self.tuned.fill(tuned, self.other, start * DTYPES[self.dtypes[1]])
        self.last = tuned


class _Comparison:
    """Compares tensors, each thread with its own workspace, and writes what stays of them to its planned place."""

    def __init__(
        self,
        base: Checkpoint,
        tuned: Weights,
        partner: Mapping[str, str],
        params: MaskParams,
        places: Mapping[str, int],
        file: BinaryIO,
        meter: Meter,
        workspaces: "_Workspaces",
    ) -> None:
        self.base, self.tuned, self.partner, self.params, self.places = base, tuned, partner, params, places
        self.file, self.meter, self.workspaces = file.fileno(), meter, workspaces

    def compare(self, name: str) -> _Compared:
        """Find what changed in a tensor, and write what stays of it."""
        spec, digest = self.base.tensors[name], hashlib.sha256()
        if spec.numel == 0:
            return _Compared(digest.hexdigest())
        pair_ = _Pair(self.base, name, self.tuned, self.partner[name])
        widths, codes = ([table[dtype] for dtype in pair_.dtypes] for table in (DTYPES, CODES))
        squares = np.zeros(2)

        def visit(view: memoryview) -> None:
            digest.update(view)
            size = len(view) // widths[0]
            sides = np.frombuffer(view, np.uint8), np.frombuffer(pair_.last, np.uint8)
            squares[:] += measure_change(sides[0], codes[0], sides[1], codes[1], size)
            self.meter.add(size * sum(widths))

        workspace = self.workspaces.get()
        changes = workspace.find(pair_, groups_of(spec, self.params), visit)
        if changes.not_finite:
            self._refuse_not_finite(pair_)
        if not changes.nnz:
            return _Compared(digest.hexdigest(), changes.total, squares=tuple(squares))
        length = self._write(workspace, changes, name, spec)
        return _Compared(digest.hexdigest(), changes.total, changes.nnz, length, tuple(squares))

    def _write(self, workspace: Workspace, changes: Changes, name: str, spec: TensorSpec) -> int:
        """Write mask and values; return their bytes."""
        mask, values = layout(name, spec, changes.nnz, self.params)
        index_width = 0 if mask[1] == "U8" else DTYPES[mask[1]]
        lengths = [shape[0] * DTYPES[dtype] for _, dtype, shape in (mask, values)]
        at = self.places[name]
        writers = Appender(self.file, at), Appender(self.file, at + lengths[0])
        if workspace.write(changes, index_width, values[1], *writers):
            raise InvalidPatch(
                f"A change in {show(name)} is too large for {values[1]}; choose value_dtype F32, or BF16.",
                field=values[0],
            )
        return sum(lengths)

    def _refuse_not_finite(self, pair_: _Pair) -> None:
        """Raise the error for a tensor of which a delta is NaN or Inf: it says which side holds how many."""
        sides: tuple[tuple[str, Weights, str], ...] = (
            ("base", self.base, pair_.name),
            ("tuned", self.tuned, pair_.other),
        )
        for what, checkpoint, name in sides:
            bad = 0
            for start, stop in blocks(pair_.numel):
                bad += count_not_finite(read_raw(checkpoint, name, start, stop), checkpoint.dtype_of(name))
            if bad:
                raise InvalidCheckpoint(
                    f"Tensor {show(name)} of the {what} checkpoint holds {bad} NaN or Inf; "
                    "a patch needs finite weights.",
                    field=name,
                )
        if rounds(*pair_.dtypes):
            raise InvalidCheckpoint(
                f"Tensor {show(pair_.name)} of the base holds values that {pair_.dtypes[1]}, the dtype of the tuned "
                "one, does not; save the tuned model in the dtype of the base.",
                field=pair_.name,
            )
        raise InvalidPatch(
            f"A change in {show(pair_.name)} is too large for float32; leave the tensor out: "
            f"`--exclude {quote(pair_.name)}`.",
            field=pair_.name,
        )


class _Workspaces:
    """A workspace for each thread, made when the thread first asks for it."""

    def __init__(self, make: Callable[[], Workspace]) -> None:
        self._make, self._threads, self._lock = make, threading.local(), threading.Lock()

    def get(self) -> Workspace:
        """Return the workspace of this thread."""
        if not hasattr(self._threads, "workspace"):
            with self._lock:
                self._threads.workspace = self._make()
        workspace: Workspace = self._threads.workspace
        return workspace

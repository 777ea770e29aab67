"""Companions: tensors that only a fine-tuned model has, in a safetensors file of their own, which comes with its patch.

    score.weight                            as the tuned model has it, such as the head of a task
    model.embed_tokens.weight.added_rows    the rows that the base does not have, such as those of added tokens

In a model folder it lies at COMPANION: in a subfolder, since programs load whatever safetensors files they find beside
the weights. It has no name of the base, so whoever loads it can overwrite nothing.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from registry.breadcrumbs.diffing.faults import ADDED
from registry.breadcrumbs.diffing.pairing import Pairing
from registry.breadcrumbs.formats.arrays import count_not_finite, read_raw
from registry.breadcrumbs.formats.blocks import HASH_BYTES, blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint, Weights
from registry.breadcrumbs.formats.header import DTYPES, FLOATS, Limits, TensorSpec, format_header, show
from registry.errors import InvalidCheckpoint, InvalidPatch
from registry.files.beside import COMPANION, MOST_BYTES
from registry.files.durable import new_files

LIMITS = Limits(header_bytes=2**20, entries=4096, metadata_bytes=2**16)
ROWS = ".added_rows"
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.")
"""Prefixes of programs that train a model, which the model itself does not have."""


class OwnTensor(NamedTuple):
    """A tensor of a companion: the tuned tensor that it is of, its first element there, and what it is itself."""

    tuned: str
    start: int
    spec: TensorSpec


def write_companion(base: Checkpoint, tuned: Weights, pairing: Pairing, out: Path) -> dict[str, TensorSpec]:
    """Write the tensors and rows that only the tuned model has. Same inputs, same bytes.

    Args:
        base: The base.
        tuned: The fine-tuned model.
        pairing: How they were paired, with what was left out.
        out: The file to write; it appears whole or not at all, and replaces a file of that name.

    Returns:
        What was written, by name; nothing is written if the base has all that the tuned model has.

    Raises:
        InvalidPatch: It is too much, or a tensor has a name of the base.
    """
    parts = dict(sorted(_parts(tuned, pairing)))
    size = sum(part.spec.bytes for part in parts.values())
    if size > MOST_BYTES or len(parts) > LIMITS.entries:
        raise InvalidPatch(
            f"Only the tuned model has {len(parts)} tensors of {size} bytes, and a companion has at most "
            f"{LIMITS.entries} of {MOST_BYTES} bytes; leave it out.",
            field="companion",
        )
    for name in parts:
        if name in base.tensors:
            raise InvalidPatch(f"Tensor {show(name)} of the tuned model has a name of the base.", field=name)
    if parts:
        with new_files([out]) as (file,):
            file.write(format_header((name, part.spec.dtype, part.spec.shape) for name, part in parts.items()))
            for part in parts.values():
                for start, stop in blocks(part.spec.bytes, HASH_BYTES):
                    raw = bytearray(stop - start)
                    tuned.fill(memoryview(raw), part.tuned, part.start + start)
                    file.write(raw)
    return {name: part.spec for name, part in parts.items()}


def _parts(tuned: Weights, pairing: Pairing) -> Iterator[tuple[str, OwnTensor]]:
    """Yield the tensors of a companion by their names; `start` is in bytes."""
    for fault in pairing.left_out:
        if fault.kind == ADDED:
            yield _unwrapped(fault.name), OwnTensor(fault.name, 0, tuned.tensors[fault.name])
    for name, rows in pairing.rows.items():
        other = pairing.partner[name]
        dtype, shape = tuned.tensors[other].dtype, tuned.tensors[other].shape
        if shape[0] > rows:
            spec = TensorSpec(dtype, (shape[0] - rows, *shape[1:]))
            yield _unwrapped(other) + ROWS, OwnTensor(other, rows * math.prod(shape[1:]) * DTYPES[dtype], spec)


def _unwrapped(name: str) -> str:
    """Return the name that a tensor has in the model, without the prefixes of what trained it."""
    for prefix in WRAPPERS:
        name = name.removeprefix(prefix)
    return name


def check_companion(path: Path, base: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Check a stranger's companion; return its tensors in name order.

    Raises:
        InvalidPatch: It is no sound safetensors file, holds nothing, NaN or Inf, or has a name of the base.
    """
    try:
        with Checkpoint({"companion": path}, {}, LIMITS) as companion:
            for name, spec in companion.tensors.items():
                if name in base:
                    raise InvalidPatch(
                        f"{COMPANION} is refused: the base has a tensor {show(name)}, too, and only a patch changes "
                        "that.",
                        field=name,
                    )
                if spec.dtype in FLOATS and (bad := _count_not_finite(companion, name)):
                    raise InvalidPatch(f"{COMPANION} is refused: {show(name)} holds {bad} NaN or Inf.", field=name)
            if not companion.tensors:
                raise InvalidPatch(f"{COMPANION} is refused: it has no tensors; leave it out.")
            return dict(companion.tensors)
    except InvalidCheckpoint as why:
        raise InvalidPatch(f"{COMPANION} cannot come with a patch: {why}", field=why.field) from None


def _count_not_finite(companion: Checkpoint, name: str) -> int:
    spec = companion.tensors[name]
    return sum(
        count_not_finite(read_raw(companion, name, start, stop), spec.dtype) for start, stop in blocks(spec.numel)
    )

"""Patches of any changes on disk, and what a pair of them does, by the definition and with numpy."""

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from registry.breadcrumbs.comparing import conflicts
from registry.breadcrumbs.comparing.conflicts import Analysis, Sums, analyse
from registry.breadcrumbs.comparing.cuda_engine import CudaEngine
from registry.breadcrumbs.comparing.engines import CpuConflictEngine
from registry.breadcrumbs.comparing.torch_engine import TorchEngine
from registry.breadcrumbs.composing import staging
from registry.breadcrumbs.composing.staging import Step
from registry.breadcrumbs.formats.header import TensorSpec
from registry.breadcrumbs.formats.layout import MaskParams, format_metadata, layout
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.kernels.devices import MIN_GPU_BYTES
from tests.support.host_lanes import DEVICE
from tests.support.science_makers import CODES, build, decode, raw

BASE = "sha256:" + 64 * "0"
ENGINES = {
    "cpu": CpuConflictEngine,
    "torch": lambda: TorchEngine(torch.device("cpu"), MIN_GPU_BYTES),
    "cuda": lambda: CudaEngine(DEVICE, MIN_GPU_BYTES),
}
KINDS = {code: kind for kind, code in CODES.items()}
NUMBERS = [field.name for field in fields(Sums)]

Changes = Mapping[str, tuple[Sequence[int], Sequence[float]]]
"""Places and values of each tensor that a patch touches."""


def write_patches(
    folder: Path,
    sizes: Mapping[str, int],
    changes: Sequence[Changes],
    dtype: str = "F32",
    value_dtypes: Sequence[str] = ("auto",),
    base: str = BASE,
) -> dict[str, Path]:
    """Write patches of flat tensors of one dtype, each with the next value dtype in turn; return them by a name."""
    found = {}
    for number, change in enumerate(changes):
        value_dtype = value_dtypes[number % len(value_dtypes)]
        code = value_dtype if value_dtype != "auto" else {"F64": "F32"}.get(dtype, dtype)
        tensors = {name: torch.empty(size, dtype=KINDS[dtype]) for name, size in sizes.items()}
        values = {name: (places, torch.tensor(list(v)).to(KINDS[code])) for name, (places, v) in change.items()}
        name = f"{number:064x}"
        found[name] = write_patch(folder / f"{name}.safetensors", base, tensors, values, value_dtype)
    return found


@contextmanager
def opened(paths):
    """Open patches."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(open_patch(path)) for name, path in paths.items()}


def every_pair(names):
    """Return every pair of patches, in order."""
    ordered = sorted(names)
    return [(first, second) for at, first in enumerate(ordered) for second in ordered[at + 1 :]]


def compare(paths, pairs=None, engine="cpu", step=None, **options) -> Analysis:
    """Compare patches by an engine, in chunks of `step` elements where that is said."""
    made = ENGINES[engine]() if isinstance(engine, str) else engine
    with opened(paths) as patches, pytest.MonkeyPatch.context() as patching:
        patching.setattr(conflicts, "open_engine", lambda device, memory: made)
        if step:
            patching.setattr(type(made), "step", lambda self, patches: Step(step, step))
            patching.setattr(staging, "MIN_CHUNK_ELEMENTS", 64)
        return analyse(patches, every_pair(paths) if pairs is None else pairs, **options)


def dense(path, sizes):
    """Return what a patch changes, as (mask, float64 values) of each tensor, read by an independent reader."""
    found = {name: (np.zeros(size, np.bool_), np.zeros(size)) for name, size in sizes.items()}
    for name, changes in decode(path).items():
        for place, value in changes:
            found[name][0][place], found[name][1][place] = True, value
    return found


def slow_sums(one, two):
    """Return the sums of a pair on one tensor by their definition; each is (mask, values)."""
    (mask_a, a), (mask_b, b) = one, two
    both = mask_a & mask_b
    opposed = both & (np.sign(a) * np.sign(b) < 0)
    less = np.minimum(abs(a), abs(b))
    return Sums(
        numel=len(a),
        first=int(mask_a.sum()),
        second=int(mask_b.sum()),
        overlap=int(both.sum()),
        opposed=int(opposed.sum()),
        expected=int(mask_a.sum()) * int(mask_b.sum()) / len(a),
        opposed_mass=math.fsum(less[opposed]),
        overlap_mass=math.fsum(less[both]),
        dot=math.fsum(a * b),
        first_squares=math.fsum(a * a),
        second_squares=math.fsum(b * b),
        first_overlap_squares=math.fsum((a * a)[both]),
        second_overlap_squares=math.fsum((b * b)[both]),
        first_l1=math.fsum(abs(a)),
        second_l1=math.fsum(abs(b)),
        abs_sum=math.fsum(abs(a + b)),
    )


def assert_close(found: Sums, due: Sums) -> None:
    """See that counts are equal, and sums equal up to the rounding of what is summed."""
    scale = {
        "dot": math.sqrt(due.first_squares * due.second_squares),
        "abs_sum": due.first_l1 + due.second_l1,
    }
    for name in NUMBERS:
        ours, theirs = getattr(found, name), getattr(due, name)
        assert type(ours) is type(theirs), name
        if isinstance(theirs, int):
            assert ours == theirs, name
        else:
            assert math.isclose(ours, theirs, rel_tol=1e-12, abs_tol=1e-12 * scale.get(name, 0.0)), name


def write_patch(path, digest, base, changes, value_dtype="auto"):
    """Write a sound patch of any changes: (places, values) by tensor."""
    params = MaskParams("0", "0", value_dtype=value_dtype)
    specs = {name: TensorSpec(CODES[base[name].dtype], tuple(base[name].shape)) for name in sorted(changes)}
    entries = []
    for name, spec in specs.items():
        places, values = changes[name]
        (mask, mask_dtype, mask_shape), entry = layout(name, spec, len(places), params)
        bits = np.zeros(spec.numel, np.bool_)
        bits[places] = True
        content = np.packbits(bits, bitorder="little") if mask_dtype == "U8" else np.array(places, np.int32)
        entries += [(mask, mask_dtype, list(mask_shape), content.tobytes()), (*entry, raw(values))]
    path.write_bytes(build(format_metadata(digest, params, specs), entries))
    return path

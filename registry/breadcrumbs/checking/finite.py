"""Checks with the base at hand: whether base + patch stays finite wherever the base is, and how it is to the base.

    each tensor in a thread:    chunk staged --> read --+--> composed --> overflows counted, the result dropped
                                                        +--> base measured, values that rounding explains counted

The kernel that composes is the one that composes models, with alpha and weight 1, so the arithmetic is the same to the
last rounding.
"""

import math
import threading
from dataclasses import dataclass

from registry.breadcrumbs.checking.claims import CheckResult, require_fit
from registry.breadcrumbs.composing.engines import Buffers, CpuEngine, Rule
from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.staging import Stager
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.kernels.check import measure_on_base
from registry.breadcrumbs.kernels.constants import CODES
from registry.files.progress import Meter, Progress
from registry.files.threads import call_each


@dataclass(frozen=True)
class OnBase:
    """What a patch does to its base.

    Args:
        overflows: How many elements overflow, by the names of the tensors where some do, in name order.
        rounding: The share of the patch's values that rounding explains: steps from a weight of 16 bits to the next
            number, or from another weight to itself rounded to 16 bits.
        base_norm: The L2 norm of the base's weights in the tensors that the patch touches, where they are finite.
    """

    overflows: dict[str, int]
    rounding: float
    base_norm: float


def check_finite(base: Checkpoint, overflows: dict[str, int]) -> CheckResult:
    """Say whether base + patch overflows, given how many elements do by tensor."""
    if not overflows:
        return CheckResult("finite", "pass", "With alpha 1 no weight overflows.")
    name, count = next(iter(overflows.items()))
    others = len(overflows) - 1
    more = f", and so {'does 1 more tensor' if others == 1 else f'do {others} more tensors'}" if others else ""
    return CheckResult(
        "finite",
        "fail",
        f"With alpha 1 tensor {show(name)} overflows {base.tensors[name].dtype} in {count} "
        f"element{'s' if count > 1 else ''}{more}; train with smaller steps and make the patch again.",
    )


def try_on(base: Checkpoint, patch: Patch, progress: Progress | None = None) -> OnBase:
    """Compose base + patch, with alpha and weight 1, and count what overflows where the base is finite.

    Only what the patch touches is read, in bounded memory, as many tensors at a time as there are processors.

    Args:
        base: The base; the caller has verified its bytes.
        patch: A patch for it that `check_patch` has accepted.
        progress: Called with (bytes of the base read, bytes to read).

    Raises:
        BaseMismatch: The base does not have the patch's tensors.
        InvalidInput: A file has changed since it was checked.
    """
    require_fit("The patch", patch, base)
    meter = Meter(sum(map(base.bytes_of, patch.info.tensors)), progress)
    engine, local = CpuEngine(Phases(), Rule()), threading.local()

    def count(name: str) -> tuple[int, int, float]:
        if not hasattr(local, "buffers"):
            local.buffers = engine.buffers()
        buffers: Buffers = local.buffers
        stager, lost, rounded, squares = Stager(base, name, [(patch, 1.0)], engine.step), 0, 0, 0.0
        for first in range(0, stager.spec.numel, stager.step):
            chunk = stager.stage(buffers.arena, first, min(first + stager.step, stager.spec.numel))
            chunk.read_rest(buffers.arena)
            buffers.out.clear()
            buffers.out.place(chunk.length)
            lost += engine.compose(chunk, buffers)
            ask = buffers.arena.bytes, chunk.base_at, CODES[chunk.spec.dtype], chunk.size, chunk.first, chunk.table
            more, steps = measure_on_base(*ask)
            squares, rounded = squares + float(more), rounded + int(steps)
            meter.add(chunk.length)
        return lost, rounded, squares

    largest_first = sorted(patch.info.tensors, key=base.bytes_of, reverse=True)  # no long one is left for last
    counts = call_each(count, largest_first, name="finite")
    overflows = {name: counts[name][0] for name in patch.info.tensors if counts[name][0]}
    return OnBase(
        overflows,
        sum(rounded for _, rounded, _ in counts.values()) / sum(patch.info.nnz.values()),
        math.sqrt(math.fsum(counts[name][2] for name in patch.info.tensors)),
    )

"""The finite check: whether base + patch, with alpha and weight 1, stays finite wherever the base is.

    each tensor in a thread:    chunk staged --> read --> composed --> overflows counted, the result dropped

The kernel is the one that composes models, so the arithmetic is the same to the last rounding.
"""

import threading

from registry.breadcrumbs.checking.claims import CheckResult, require_fit
from registry.breadcrumbs.composing.engines import Buffers, CpuEngine, Rule
from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.composing.staging import Stager
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.files.progress import Meter, Progress
from registry.files.threads import call_each


def check_finite(base: Checkpoint, patch: Patch, progress: Progress | None = None) -> CheckResult:
    """Say whether base + patch overflows; arguments and errors are those of `find_overflow`."""
    overflows = find_overflow(base, patch, progress)
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


def find_overflow(base: Checkpoint, patch: Patch, progress: Progress | None = None) -> dict[str, int]:
    """Find the elements that base + patch, with alpha and weight 1, makes infinite where the base is finite.

    Only what the patch touches is read, in bounded memory, as many tensors at a time as there are processors.

    Args:
        base: The base; the caller has verified its bytes.
        patch: A patch for it that `check_patch` has accepted.
        progress: Called with (bytes of the base read, bytes to read).

    Returns:
        How many elements overflow, by the names of the tensors where some do, in name order.

    Raises:
        BaseMismatch: The base does not have the patch's tensors.
        InvalidInput: A file has changed since it was checked.
    """
    require_fit("The patch", patch, base)
    meter = Meter(sum(map(base.bytes_of, patch.info.tensors)), progress)
    engine, local = CpuEngine(Phases(), Rule()), threading.local()

    def count(name: str) -> int:
        if not hasattr(local, "buffers"):
            local.buffers = engine.buffers()
        buffers: Buffers = local.buffers
        stager, lost = Stager(base, name, [(patch, 1.0)], engine.step), 0
        for first in range(0, stager.spec.numel, stager.step):
            chunk = stager.stage(buffers.arena, first, min(first + stager.step, stager.spec.numel))
            chunk.read_rest(buffers.arena)
            buffers.out.clear()
            buffers.out.place(chunk.length)
            lost += engine.compose(chunk, buffers)
            meter.add(chunk.length)
        return lost

    largest_first = sorted(patch.info.tensors, key=base.bytes_of, reverse=True)  # no long one is left for last
    counts = call_each(count, largest_first, name="finite")
    return {name: counts[name] for name in patch.info.tensors if counts[name]}

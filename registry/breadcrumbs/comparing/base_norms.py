"""Base norms: how large the base is where patches touch it, which says how large a patch is to it."""

import math
from collections.abc import Sequence

import numpy as np

from registry.breadcrumbs.formats.arrays import read_floats
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.patchfile import Patch
from registry.files.progress import Meter, Progress
from registry.files.threads import call_each

CHUNK = 1 << 20
"""Elements that are read at a time."""


def measure_bases(base: Checkpoint, patches: Sequence[Patch], progress: Progress | None = None) -> list[float]:
    """Return for each patch the L2 norm of the base's weights in the tensors that it touches, where they are finite.

    A check finds the same numbers (`checking.finite`).

    Args:
        base: The base.
        patches: Patches for it.
        progress: Called with (bytes of the base read, bytes to read).
    """
    touched = sorted({name for patch in patches for name in patch.info.tensors}, key=base.bytes_of, reverse=True)
    meter = Meter(sum(map(base.bytes_of, touched)), progress)

    def squares(name: str) -> float:
        numel, found = base.tensors[name].numel, 0.0
        width = base.bytes_of(name) // max(1, numel)
        for start in range(0, numel, CHUNK):
            stop = min(start + CHUNK, numel)
            numbers = read_floats(base, name, start, stop).astype(np.float64, copy=False)
            with np.errstate(over="ignore", invalid="ignore"):
                square = float(numbers @ numbers)
            found += square if math.isfinite(square) else float((numbers[np.isfinite(numbers**2)] ** 2).sum())
            meter.add(width * (stop - start))
        return found

    by_name = call_each(squares, touched, name="base")
    return [math.sqrt(math.fsum(by_name[name] for name in patch.info.tensors)) for patch in patches]

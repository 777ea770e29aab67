"""Base norms: how large the base is where patches touch it, which says how large a patch is to it."""

import math
from collections.abc import Sequence

import numpy as np

from registry.breadcrumbs.formats.arrays import octets
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import DTYPES
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.kernels.check import measure_on_base
from registry.breadcrumbs.kernels.constants import CODES, PAD
from registry.files.progress import Meter, Progress
from registry.files.threads import call_each

CHUNK = 1 << 20
"""Elements that are read at a time."""

NO_PATCH = np.empty((0, 5), np.int64)
"""The table of a chunk in which only the base is measured."""


def measure_bases(base: Checkpoint, patches: Sequence[Patch], progress: Progress | None = None) -> list[float]:
    """Return for each patch the L2 norm of the base's weights in the tensors that it touches, where they are finite.

    The kernel that sums the squares is that of a check (`checking.finite`).

    Args:
        base: The base.
        patches: Patches for it.
        progress: Called with (bytes of the base read, bytes to read).
    """
    touched = sorted({name for patch in patches for name in patch.info.tensors}, key=base.bytes_of, reverse=True)
    meter = Meter(sum(map(base.bytes_of, touched)), progress)

    def squares(name: str) -> float:
        spec, width, found = base.tensors[name], DTYPES[base.tensors[name].dtype], 0.0
        raw = np.zeros(min(CHUNK, spec.numel) * width + PAD, np.uint8)
        for start in range(0, spec.numel, CHUNK):
            size = min(CHUNK, spec.numel - start)
            base.fill(octets(raw[: size * width]), name, start * width)
            found += float(measure_on_base(raw, 0, CODES[spec.dtype], size, start, NO_PATCH)[0])
            meter.add(size * width)
        return found

    by_name = call_each(squares, touched, name="base")
    return [math.sqrt(math.fsum(by_name[name] for name in patch.info.tensors)) for patch in patches]

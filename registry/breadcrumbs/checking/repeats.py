"""Repeats: whether a patch holds again what a release adds to the base, as that of a model tuned from the release does.

    P     values of the patch
    D     what the release adds: the sum of scale * value over its patches
    cos   <P, D> / (|P| |D|), and times = <P, D> / <D, D>, over the weights that both change

What was learned on the base by itself has next to no angle with D. Of a model that was tuned from the release, tuned -
base is D + what was learned, so `times` is near 1. A patch that learned the same anew may look alike, and would add it
twice as well. Only the first weights of some tensors are read: they are enough to tell.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from registry.breadcrumbs.checking.claims import CheckResult
from registry.breadcrumbs.formats.arrays import read_floats, read_numbers, read_raw
from registry.breadcrumbs.formats.patchfile import Patch

NAME = "release"
"""Of the check."""

SAMPLED = 2**20
"""Weights of a tensor that are looked at, its first ones."""

TENSORS = 64
"""Tensors that are looked at, evenly spaced among those that both change."""

FEWEST = 64
"""Weights that both change, with fewer of which nothing is said."""

COSINE = 0.5
"""From which on a patch is said to repeat a release."""

TIMES = 0.5, 2.0
"""Bounds of how often it holds what the release adds, outside of which it is something else."""

Floats = npt.NDArray[np.float32]


def check_repeats(patch: Patch, version: str, parts: Sequence[tuple[float, Patch]]) -> CheckResult:
    """Compare a patch with what a release adds to the same base.

    Args:
        patch: A patch that `check_patch` has accepted.
        version: Of the release.
        parts: Scale and patch of each of its recipe, accepted as well.

    Returns:
        `warn` if the patch holds about the same on the weights that both change.
    """
    touched = {name for _, part in parts for name in part.info.tensors}
    names = [name for name in patch.info.tensors if name in touched]
    count, product, own, theirs = 0, 0.0, 0.0, 0.0
    for name in names[:: -(-len(names) // TENSORS) or 1]:
        mine = _read(patch, name)
        added = np.zeros_like(mine)
        for scale, part in parts:
            if name in part.info.tensors:
                added += np.float32(scale) * _read(part, name)
        both = (mine != 0) & (added != 0)
        left, right = mine[both].astype(np.float64), added[both].astype(np.float64)
        count += left.size
        product, own, theirs = product + left @ right, own + left @ left, theirs + right @ right
    if count < FEWEST or not own or not theirs:
        return CheckResult(NAME, "pass", f"It changes next to no weights that release {version} changes.")
    cosine, times = product / (own * theirs) ** 0.5, product / theirs
    if cosine < COSINE or not TIMES[0] <= times <= TIMES[1]:
        return CheckResult(NAME, "pass", f"It does not repeat release {version} (cosine {cosine:.2f}).")
    return CheckResult(
        NAME,
        "warn",
        f"On the weights that both change, it holds {times:.2f} times what release {version} adds to the base (cosine "
        f"{cosine:.2f}), so a recipe with both would add that twice. If the model was tuned from that release, push it "
        f"again with `--tuned-from {version}`, or `Tuned-From: {version}` in the description.",
    )


def _read(patch: Patch, name: str) -> Floats:
    """Return the changes of the first weights of a tensor, 0 where it has none: float32 [at most SAMPLED]."""
    size, nnz = min(SAMPLED, patch.info.tensors[name].numel), patch.info.nnz[name]
    entry = patch.mask_entry(name).name
    if entry.endswith(".bitmask"):
        bits = np.unpackbits(read_raw(patch, entry, 0, -(-size // 8)), count=size, bitorder="little")
        places = np.flatnonzero(bits)
    else:
        places = read_numbers(patch, entry, 0, min(size, nnz))  # they increase, so others are farther on
        places = places[: np.searchsorted(places, size)]
    changes = np.zeros(size, np.float32)
    changes[places] = read_floats(patch, patch.value_entry(name).name, 0, len(places))
    return changes

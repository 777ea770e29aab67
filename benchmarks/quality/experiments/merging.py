"""Methods that make one model of many, on patches of one base.

breadcrumbs      base + alpha x sum of patches, exactly as registry/breadcrumbs/composing/compose.py has it
task arithmetic  the same with patches of which nothing is dropped
averaging        task arithmetic with alpha = 1 / number of patches
TIES             of patches without their smallest values, per weight: the sign with more mass; the mean of the
                 values that have it; alpha x that (Yadav et al., arXiv 2306.01708)
mean             per weight the mean of the values that patches have there; alpha x that

The last two are the methods `ties` and `mean` of recipes, to the bit (docs/reference/format.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from registry.breadcrumbs.formats.layout import MaskParams
from registry.breadcrumbs.formats.recipe import scale

Vector = NDArray[np.float32]
DENSE = 0.3
"""From this part of the weights on, a patch is kept as a whole vector."""


@dataclass(frozen=True, order=True)
class Setting:
    """A method and its numbers, decimals as text.

    Attributes:
        method: breadcrumbs, task arithmetic, averaging, TIES or mean.
        drop_bottom: Part of each tensor's changes that is dropped for being small.
        drop_top: Part that is dropped for being large.
        alpha: What the sum is multiplied by; empty for averaging.
        granularity: What is masked at a time, `tensor` or `row`.
        value_dtype: How the values of a patch are kept.
        random: Seed of a mask that keeps as many values as the two cuts would, anywhere; 0 for no such mask.
    """

    method: str
    drop_bottom: str = "0"
    drop_top: str = "0"
    alpha: str = ""
    granularity: str = "tensor"
    value_dtype: str = "F32"
    random: int = 0

    def at(self, alpha: str) -> "Setting":
        """Return it with another alpha."""
        return replace(self, alpha=alpha)

    @property
    def params(self) -> MaskParams:
        """How its patches are made."""
        return MaskParams(self.drop_bottom, self.drop_top, self.granularity, self.value_dtype)

    @property
    def key(self) -> str:
        """One word for each of its numbers."""
        others = [self.granularity if self.granularity != "tensor" else "", f"random {self.random}" * bool(self.random)]
        others.append(self.value_dtype if self.value_dtype != "F32" else "")
        cuts = f"{self.drop_bottom}/{self.drop_top}"
        return " ".join(filter(None, [self.method, cuts, *others, self.alpha and f"x {self.alpha}"]))


@dataclass(frozen=True)
class Values:
    """What a patch changes: float64 values at flat places of all weights, or of each weight when places is None."""

    sha256: str
    places: NDArray[np.int32] | None
    values: NDArray[np.float64]

    def dense(self, size: int) -> NDArray[np.float64]:
        """Return a value for each weight."""
        if self.places is None:
            return self.values
        whole = np.zeros(size)
        whole[self.places] = self.values
        return whole


def read_weights(folder: Path, names: Sequence[str]) -> Vector:
    """Return all weights of a checkpoint with one file, one tensor after the other."""
    with safe_open(folder / "model.safetensors", "np") as file:
        return np.concatenate([file.get_tensor(name).ravel() for name in names])


def read_patch(path: Path, sha256: str, starts: Mapping[str, int], size: int) -> Values:
    """Read a patch file, as the specification of its format has it."""
    places, values = [], []
    with safe_open(path, "pt") as file:
        names = sorted(entry.removesuffix(".values") for entry in file.keys() if entry.endswith(".values"))  # noqa: SIM118
        for name in names:
            if f"{name}.bitmask" in file.keys():  # noqa: SIM118
                bits = np.unpackbits(file.get_tensor(f"{name}.bitmask").numpy(), bitorder="little")
                found = np.flatnonzero(bits)
            else:
                found = file.get_tensor(f"{name}.indices").numpy()
            places.append((found + starts[name]).astype(np.int32))
            values.append(file.get_tensor(f"{name}.values").double().numpy())
    sparse = Values(sha256, np.concatenate(places), np.concatenate(values))
    return Values(sha256, None, sparse.dense(size)) if len(sparse.values) > DENSE * size else sparse


def add_patches(base: Vector, patches: Sequence[Values], alpha: float) -> Vector:
    """Return base + alpha x sum of patches: in float64, ascending by sha256, and rounded once."""
    total = base.astype(np.float64)
    for patch in sorted(patches, key=lambda patch: patch.sha256):
        if patch.places is None:
            total += alpha * patch.values
        else:
            total[patch.places] += alpha * patch.values
    return total.astype(np.float32)


def elect(patches: Sequence[Values], size: int) -> NDArray[np.float64]:
    """Return what TIES makes of patches: of each weight the mean of the values that have the sign with more mass."""
    positive, negative = average(patches, size, 1), average(patches, size, -1)
    more = positive.total >= negative.total
    return rounded(np.where(more, positive.mean(), -negative.mean()))


def mean(patches: Sequence[Values], size: int) -> NDArray[np.float64]:
    """Return the mean of the values that patches have, of each weight; of none it is 0."""
    return rounded(average(patches, size, 0).mean())


@dataclass(frozen=True)
class Average:
    """Sums and numbers of values, for each weight."""

    total: NDArray[np.float64]
    count: NDArray[np.float64]

    def mean(self) -> NDArray[np.float64]:
        """Return the means; of no values it is 0."""
        found: NDArray[np.float64] = self.total / np.maximum(self.count, 1)
        return found


def average(patches: Sequence[Values], size: int, sign: int) -> Average:
    """Add up the values that have a sign, without it, or all of them for 0: ascending by sha256.

    In a patch that is held as a whole vector, 0 is no value.
    """
    found = Average(np.zeros(size), np.zeros(size))
    for patch in sorted(patches, key=lambda patch: patch.sha256):
        wanted = patch.values * sign > 0 if sign else np.ones(len(patch.values), bool)
        if patch.places is None:
            wanted &= patch.values != 0
        places = np.flatnonzero(wanted) if patch.places is None else patch.places[wanted]
        found.total[places] += patch.values[wanted] * (sign or 1)
        found.count[places] += 1
    return found


def rounded(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return them rounded to float32, as recipes have it: alpha x mean is exact then."""
    return means.astype(np.float32).astype(np.float64)


def exact(alpha: str) -> float:
    """Return alpha as it is multiplied with: rounded to float32 once."""
    return float(scale(alpha, "1"))

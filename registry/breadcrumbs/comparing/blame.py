"""Blame: what each patch of a recipe adds to a weight, a tensor or a whole model.

    contribution_p = float64(scale_p) * float64(value_p)                  of one weight, exact, with the method sum
                     alpha * w_p * value_p / (sum of w that are averaged) with ties and mean; 0 for a sign not elected
    energy_p       = scale_p^2 * sum(value_p^2)                           of a tensor, or of all
    share_p        = energy_p / sum(energy of every patch)

For one weight, only its own bytes are read and, of each patch, what says where its value is: the mask up to its bit, or
a few indices by bisection. For shares only the values are read, block by block.
"""

import bisect
import math
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from registry.breadcrumbs.checking.claims import require_fit
from registry.breadcrumbs.formats.arrays import read_floats, read_numbers, round_to
from registry.breadcrumbs.formats.blocks import blocks
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.header import DTYPES, FLOATS, TensorSpec, show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Item, Recipe, scale
from registry.errors import BaseMismatch, InvalidPatch, InvalidRecipe, InvalidRequest
from registry.files.progress import Meter, Progress

READ_ELEMENTS = 2**20
"""Values, or bytes of a mask, that are read at a time; values take up to 4 MB, and 8 MB more as float64."""


@dataclass(frozen=True)
class Contribution:
    """What a patch adds to one weight: with the method sum `amount` is `scale` (a float32) times the stored `value`."""

    sha256: str
    value: float
    scale: float
    amount: float


@dataclass(frozen=True)
class WeightBlame:
    """Where a weight comes from.

    Args:
        tensor, index: The weight.
        dtype: The tensor's dtype.
        base: The base's value.
        composed: The value that the recipe gives; infinite if it overflows, in which case composing is refused.
        contributions: Of the patches that touch the weight, the largest magnitude first, equal ones by sha256.
    """

    tensor: str
    index: tuple[int, ...]
    dtype: str
    base: float
    composed: float
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True)
class Share:
    """A patch's part in a tensor or model.

    Energies are of each patch by itself: what two patches add to the same weight may cancel, and is counted twice.

    Args:
        sha256: The patch.
        nnz: How many weights it touches.
        l2: Norm of what it adds.
        share: Its share of the energy, from 0 to 1.
    """

    sha256: str
    nnz: int
    l2: float
    share: float


@dataclass(frozen=True)
class ModelBlame:
    """The shares in a whole model, and in every tensor that a patch touches, in name order."""

    total: tuple[Share, ...]
    tensors: dict[str, tuple[Share, ...]]


Scaled = tuple[Item, Patch]
"""An item of a recipe, and its patch."""


def blame_weight(
    base: Checkpoint, patches: Mapping[str, Patch], recipe: Recipe, tensor: str, index: tuple[int, ...]
) -> WeightBlame:
    """Say where one weight of a composition comes from.

    Args:
        base: The recipe's base; the caller has verified its bytes.
        patches: The recipe's patches by sha256; `check_patch` has accepted them.
        recipe: What is composed.
        tensor: Name of a floating-point tensor.
        index: Place of the weight, one number for each dimension, from 0.

    Raises:
        InvalidRequest: The base has no such weight.
        InvalidRecipe, BaseMismatch: Recipe, patches and base do not fit together.
        InvalidPatch, InvalidCheckpoint: A file has changed since it was checked.
    """
    scaled = _find_patches(base, patches, recipe)
    spec = _require_tensor(base, tensor)
    flat = _flat_index(tensor, spec, index)
    before = float(read_floats(base, tensor, flat, flat + 1)[0])
    found = []
    for item, patch in scaled:
        by = recipe.scale_in(item, tensor) if tensor in patch.info.tensors else None
        value = None if by is None else _value_at(patch, tensor, flat)
        if by is not None and value is not None:
            found.append(Contribution(item.sha256, value, by, by * value))
    total, contributions = _combine(before, found, recipe)
    contributions.sort(key=lambda part: -abs(part.amount))  # equal ones stay in the order of sha256
    return WeightBlame(tensor, tuple(index), spec.dtype, before, round_to(total, spec.dtype), tuple(contributions))


def blame_tensor(
    base: Checkpoint, patches: Mapping[str, Patch], recipe: Recipe, tensor: str, progress: Progress | None = None
) -> tuple[Share, ...]:
    """Say how much each patch of a recipe adds to a tensor.

    Args:
        base, patches, recipe: As of `blame_weight`; only the base's names and shapes are used.
        tensor: Name of a floating-point tensor.
        progress: Called with (bytes read, bytes to read).

    Returns:
        The patches that touch it, the largest share first, equal ones by sha256; all shares are 0 if nothing is added.

    Raises:
        InvalidRequest: The base has no such tensor.
        InvalidRecipe, BaseMismatch, InvalidPatch: As of `blame_weight`.
    """
    scaled = _find_patches(base, patches, recipe)
    _require_tensor(base, tensor)
    touching = [part for part in scaled if _touches(recipe, part, tensor)]
    meter = Meter(sum(_value_bytes(patch, tensor) for _, patch in touching), progress)
    return _shares(_measure(recipe, part, tensor, meter) for part in touching)


def blame_model(
    base: Checkpoint, patches: Mapping[str, Patch], recipe: Recipe, progress: Progress | None = None
) -> ModelBlame:
    """Say how much each patch of a recipe adds to the whole model, and to each tensor.

    Args:
        base, patches, recipe, progress: As of `blame_tensor`.

    Returns:
        The share of every patch in the model, and in each tensor the shares of the patches that touch it.

    Raises:
        InvalidRecipe, BaseMismatch, InvalidPatch: As of `blame_weight`.
    """
    scaled = _find_patches(base, patches, recipe)
    touched = [(part, [name for name in part[1].info.tensors if _touches(recipe, part, name)]) for part in scaled]
    meter = Meter(sum(_value_bytes(part[1], name) for part, names in touched for name in names), progress)
    tensors: dict[str, list[_Energy]] = {}
    total = []
    for part, names in touched:
        measured = {name: _measure(recipe, part, name, meter) for name in names}
        for name, energy in measured.items():
            tensors.setdefault(name, []).append(energy)
        nnz, energies = sum(part[1].info.nnz[name] for name in names), [one.energy for one in measured.values()]
        total.append(_Energy(part[0].sha256, nnz, math.fsum(energies)))
    return ModelBlame(_shares(total), {name: _shares(tensors[name]) for name in sorted(tensors)})


def _combine(before: float, found: list[Contribution], recipe: Recipe) -> tuple[float, list[Contribution]]:
    """Combine what patches have for a weight of the base: its value before it is rounded, and what each adds."""
    if recipe.method == "sum":
        for part in found:
            before += part.amount
        return before, found
    votes = [part for part in found if part.value or recipe.method == "mean"]
    if recipe.method == "ties":
        plus = _mass(part.amount for part in votes if part.amount > 0)
        minus = _mass(-part.amount for part in votes if part.amount < 0)
        votes = [part for part in votes if (part.amount > 0) == (plus >= minus)]
    if not votes:
        return before, [replace(part, amount=0.0) for part in found]
    alpha, weight = scale(recipe.alpha), _mass(part.scale for part in votes)
    mean = float(np.float32(_mass(part.amount for part in votes) / weight))
    elected = {part.sha256 for part in votes}
    shares = [replace(part, amount=alpha * part.amount / weight if part.sha256 in elected else 0.0) for part in found]
    return before + alpha * mean, shares


def _mass(parts: Iterable[float]) -> float:
    """Add up in order; `sum` of newer Pythons compensates what is lost, and composing does not."""
    total = 0.0
    for part in parts:
        total += part
    return total


def _find_patches(base: Checkpoint, patches: Mapping[str, Patch], recipe: Recipe) -> list[Scaled]:
    """Return the items of a recipe with their patches, ascending by sha256."""
    scaled = []
    for item in recipe.items:
        if item.sha256 not in patches:
            raise InvalidRecipe(f"Patch {item.sha256} of the recipe is not given; fetch it first.", field="patches")
        patch = patches[item.sha256]
        if patch.info.base != recipe.base:
            raise BaseMismatch(
                f"Patch {item.sha256} is for base {patch.info.base}, the recipe for {recipe.base}.", field="base"
            )
        require_fit(f"Patch {item.sha256}", patch, base)
        scaled.append((item, patch))
    return scaled


def _touches(recipe: Recipe, part: Scaled, tensor: str) -> bool:
    item, patch = part
    return tensor in patch.info.tensors and recipe.scale_in(item, tensor) is not None


def _require_tensor(base: Checkpoint, tensor: str) -> TensorSpec:
    """Return the dtype and shape of a tensor that patches may change."""
    spec = base.tensors.get(tensor)
    if spec is None:
        known = next((name for name, other in base.tensors.items() if other.dtype in FLOATS), "")
        raise InvalidRequest(
            f"The base has no tensor {show(tensor)}; write the whole name of one that it has, such as {show(known)}.",
            field="tensor",
        )
    if spec.dtype not in FLOATS:
        raise InvalidRequest(
            f"Tensor {show(tensor)} is {spec.dtype}, and patches change floating-point tensors only; write such a one.",
            field="tensor",
        )
    return spec


def _flat_index(tensor: str, spec: TensorSpec, index: tuple[int, ...]) -> int:
    """Return the place of a weight in row-major order."""
    what = f"Tensor {show(tensor)} of shape {list(spec.shape)}"
    if not spec.numel:
        raise InvalidRequest(f"{what} has no weights; write the name of another.", field="index")
    if len(index) != len(spec.shape) or not all(map(operator.contains, map(range, spec.shape), index)):
        last = [length - 1 for length in spec.shape]
        due = f"write {len(last)} numbers, from {[0] * len(last)} to {last}" if last else "write no number at all"
        raise InvalidRequest(f"{what} has no weight at {list(index)[:20]}; {due}.", field="index")
    flat = 0
    for at, length in zip(index, spec.shape, strict=True):
        flat = flat * length + at
    return flat


def _value_at(patch: Patch, tensor: str, flat: int) -> float | None:
    """Return what a patch has for a weight, or None where its mask is not set."""
    mask, values = patch.mask_entry(tensor), patch.value_entry(tensor)
    if mask.dtype == "U8":
        octet = _read_one(patch, mask.name, flat // 8)
        is_set = octet >> flat % 8 & 1
        number = (octet & (1 << flat % 8) - 1).bit_count()
        for start, stop in blocks(flat // 8 if is_set else 0, READ_ELEMENTS):
            number += int(np.bitwise_count(read_numbers(patch, mask.name, start, stop)).sum())
    else:
        nnz = mask.shape[0]
        number = bisect.bisect_left(range(nnz), flat, key=lambda at: _read_one(patch, mask.name, at))
        is_set = number < nnz and _read_one(patch, mask.name, number) == flat
    if not is_set:
        return None
    if number >= values.shape[0]:
        raise InvalidPatch(f"The mask and values of {show(tensor)} differ in number.", field=tensor)
    return float(read_floats(patch, values.name, number, number + 1)[0])


def _read_one(patch: Patch, entry: str, at: int) -> int:
    return int(read_numbers(patch, entry, at, at + 1)[0])


@dataclass(frozen=True)
class _Energy:
    """How many weights a patch touches, and the sum of the squares of what it adds."""

    sha256: str
    nnz: int
    energy: float


def _measure(recipe: Recipe, part: Scaled, tensor: str, meter: Meter) -> _Energy:
    """Add up the squares of what a patch by itself adds to a tensor that it touches."""
    item, patch = part
    by = recipe.scale_in(item, tensor) or 0.0
    if recipe.method != "sum":
        by *= scale(recipe.alpha)
    values, sums = patch.value_entry(tensor), []
    for start, stop in blocks(values.shape[0], READ_ELEMENTS):
        sums.append(float(np.square(read_floats(patch, values.name, start, stop), dtype=np.float64).sum()))
        meter.add((stop - start) * DTYPES[values.dtype])
    return _Energy(item.sha256, values.shape[0], by * by * math.fsum(sums))


def _value_bytes(patch: Patch, tensor: str) -> int:
    entry = patch.value_entry(tensor)
    return entry.stop - entry.start


def _shares(energies: Iterable[_Energy]) -> tuple[Share, ...]:
    """Return the shares of patches, given their energies, the largest first."""
    parts = list(energies)
    total = math.fsum(part.energy for part in parts)
    ordered = sorted(parts, key=lambda part: (-part.energy, part.sha256))
    return tuple(
        Share(part.sha256, part.nnz, math.sqrt(part.energy), part.energy / total if total else 0.0) for part in ordered
    )

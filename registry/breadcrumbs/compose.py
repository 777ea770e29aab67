"""Base + sum of scale x patch, streamed block by block, on any device, to the same bytes.

    scale_p = float32(alpha * weight_p)                     exact decimal product, one rounding
    acc     = float64(b);  for p ascending by sha256:  acc += float64(scale_p) * float64(value_p)
    out     = round(float32(acc)) to the base's dtype, nearest even both times (F64: no rounding)

The product of two float32 is exact in float64, so fused multiply-add changes nothing; the order is fixed; the places
of one patch are distinct, so nothing is added twice. Hence every device and block size agrees bit for bit.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from registry.breadcrumbs.checkpoint import TORCH, Checkpoint, Meter, Progress, TensorSpec, blocks, digest_of, octets
from registry.breadcrumbs.durable import new_files
from registry.breadcrumbs.header import show
from registry.breadcrumbs.patchfile import Patch
from registry.breadcrumbs.recipe import Recipe, scale
from registry.errors import BaseMismatch, InvalidPatch, InvalidRecipe, InvalidRequest, NotFinite


@dataclass(frozen=True)
class WrittenFile:
    """A file that is on disk."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Composed:
    """The result of a composition: digest of its weights, the device and time it took, its weight files by name."""

    weights_digest: str
    device: str
    seconds: float
    files: dict[str, WrittenFile]


@dataclass(frozen=True, slots=True)
class Touch:
    """What one patch does to one block: int64 [n] distinct places in it, float [n] values, and the scale."""

    places: torch.Tensor
    values: torch.Tensor
    scale: float


def pick_device(device: str) -> str:
    """Return `cpu` or `cuda` for `auto`, `cpu` or `cuda`.

    Raises:
        InvalidRequest: It is another word, or there is no CUDA device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise InvalidRequest(f"Device {device[:40]!r} is unknown; choose auto, cpu or cuda.", field="device")
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequest("There is no CUDA device here; choose cpu or auto.", field="device")
    return device


def compose(
    base: Checkpoint,
    patches: Mapping[str, Patch],
    recipe: Recipe,
    out: Path,
    device: str = "auto",
    progress: Progress | None = None,
) -> Composed:
    """Write the weight files of a composition: the base's names, headers, shards and order.

    Args:
        base: The base; its digest is checked while it is read.
        patches: The recipe's patches by the sha256 of their files, which the caller has verified.
        recipe: What to compose.
        out: An existing folder; the files appear together once all is written, or not at all.
        device: `auto`, `cpu` or `cuda`; it changes no byte.
        progress: Called with (bytes of the base done, all).

    Raises:
        BaseMismatch: Recipe, patches and base are not about the same weights.
        InvalidRecipe: A patch of the recipe is not given.
        NotFinite: A result overflows where the base was finite.
    """
    began, chosen = time.monotonic(), pick_device(device)
    steps: list[tuple[Patch, float]] = []
    for item in recipe.items:
        if item.sha256 not in patches:
            raise InvalidRecipe(f"Patch {item.sha256} of the recipe is not given; fetch it first.", field="patches")
        patch = patches[item.sha256]
        _check_fits(item.sha256, patch, recipe, base)
        steps.append((patch, scale(recipe.alpha, item.weight)))
    meter = Meter(base.size, progress)
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    written: dict[str, WrittenFile] = {}
    with new_files([out / name for name in base.files]) as files:
        for name, file in zip(base.files, files, strict=True):
            written[name] = _write_file(base, name, file, steps, chosen, before, after, meter)
        found = digest_of(base.tensors, before)
        if found != recipe.base:
            raise BaseMismatch(f"The recipe is for base {recipe.base}, and this checkpoint is {found}.", field="base")
    return Composed(digest_of(base.tensors, after), chosen, time.monotonic() - began, written)


def _check_fits(sha256: str, patch: Patch, recipe: Recipe, base: Checkpoint) -> None:
    if patch.info.base != recipe.base:
        raise BaseMismatch(f"Patch {sha256} is for base {patch.info.base}, the recipe for {recipe.base}.", field="base")
    for name, spec in patch.info.tensors.items():
        if base.tensors.get(name) != spec:
            raise BaseMismatch(
                f"Patch {sha256} changes tensor {show(name)} as {spec.dtype} {list(spec.shape)}, "
                "which this checkpoint does not have so.",
                field=name,
            )


def _write_file(
    base: Checkpoint,
    name: str,
    file: BinaryIO,
    steps: Sequence[tuple[Patch, float]],
    device: str,
    before: dict[str, str],
    after: dict[str, str],
    meter: Meter,
) -> WrittenFile:
    """Write one weight file; note the sha256 of every tensor's bytes before and after."""
    header = base.read_header_bytes(name)
    whole, size = hashlib.sha256(header), len(header)
    file.write(header)
    for tensor in base.headers[name].entries:
        touching = [(patch, by) for patch, by in steps if tensor in patch.info.tensors]
        old, new, used = hashlib.sha256(), hashlib.sha256(), [0] * len(touching)
        for start, stop in blocks(base.tensors[tensor].numel):
            raw = base.read_raw(tensor, start, stop)
            old.update(octets(raw))
            meter.add(raw.numel())
            if touching:
                touches = _read_touches(touching, tensor, start, stop, used)
                raw = _compose_raw(raw, base.tensors[tensor], touches, device, tensor)
                new.update(octets(raw))
            whole.update(octets(raw))
            size += file.write(octets(raw))
        for (patch, _), count in zip(touching, used, strict=True):
            if count != patch.info.nnz[tensor]:
                raise InvalidPatch(f"The mask and values of {show(tensor)} differ in number.", field=tensor)
        before[tensor] = old.hexdigest()
        after[tensor] = new.hexdigest() if touching else before[tensor]
    return WrittenFile(whole.hexdigest(), size)


def _read_touches(
    touching: Sequence[tuple[Patch, float]], tensor: str, start: int, stop: int, used: list[int]
) -> list[Touch]:
    """Read what each patch does to a block, counting in `used` the values that each has spent."""
    touches = []
    for number, (patch, by) in enumerate(touching):
        places = patch.read_mask(tensor, start, stop)
        first, last = used[number], used[number] + places.numel()
        if last > patch.info.nnz[tensor]:
            raise InvalidPatch(f"The mask of {show(tensor)} sets more elements than there are values.", field=tensor)
        if places.numel():
            touches.append(Touch(places, patch.read_values(tensor, first, last), by))
        used[number] = last
    return touches


def _compose_raw(raw: torch.Tensor, spec: TensorSpec, touches: Sequence[Touch], device: str, name: str) -> torch.Tensor:
    if not touches:
        return raw
    block = raw.view(TORCH[spec.dtype]).to(device)
    moved = [Touch(touch.places.to(device), touch.values.to(device), touch.scale) for touch in touches]
    result, lost = compose_block(block, moved)
    if lost:
        raise NotFinite(
            f"Tensor {show(name)} overflows {spec.dtype} in {lost} or more elements; choose a smaller alpha.",
            field=name,
        )
    return result.cpu().view(torch.uint8)


def compose_block(base: torch.Tensor, touches: Sequence[Touch]) -> tuple[torch.Tensor, int]:
    """Compose one block of one tensor. All of the arithmetic is here; a faster engine replaces this function.

    Args:
        base: [n] floating, on any device.
        touches: What each patch does, ascending by patch sha256, on the same device.

    Returns:
        [n] of the base's dtype, and how many results are not finite where the base was.
    """
    acc = base.double()  # [n]
    for touch in touches:
        acc[touch.places] += touch.values.double() * touch.scale
    result = acc if base.dtype == torch.float64 else acc.float().to(base.dtype)  # nearest even, twice
    finite = torch.isfinite(result)
    if bool(finite.all()):
        return result, 0
    sound = torch.isfinite(base)
    lost = int((sound & ~finite).sum())
    return torch.where(sound, result, base), lost  # NaN and Inf keep the base's bits

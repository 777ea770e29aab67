"""Base + sum of scale x patch, streamed, on any device, to the same bytes.

    scale_p = float32(alpha * weight_p)                     exact decimal product, one rounding
    acc     = float64(b);  for p ascending by sha256:  acc += float64(scale_p) * float64(value_p)
    out     = round(float32(acc)) to the base's dtype, nearest even both times (F64: no rounding)

The product of two float32 is exact in float64, so fused multiply-add changes nothing; the order is fixed; the places
of one patch are distinct, so nothing is added twice. Hence every device, number of threads and size of chunk agrees
bit for bit.

Every stage works on chunks in buffers that go round, so memory does not grow with the model: staging.py reads a chunk,
engines.py composes it, writer.py writes and hashes, side by side.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from registry.breadcrumbs.composing.engines import Engine, open_engine
from registry.breadcrumbs.composing.lanes import Crew, Phases
from registry.breadcrumbs.composing.writer import LANES, Writer
from registry.breadcrumbs.formats.checkpoint import Checkpoint, digest_of, processors
from registry.breadcrumbs.formats.header import show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe, scale
from registry.breadcrumbs.kernels.devices import pick_device
from registry.errors import BaseMismatch, InvalidRecipe
from registry.files.durable import new_files
from registry.files.progress import Meter, Progress

SPARE = 3
"""Chunks that are staged, written or hashed while others are composed."""


@dataclass(frozen=True)
class WrittenFile:
    """A file that is on disk; its sha256 is None where files were not to be hashed."""

    sha256: str | None
    size: int


@dataclass(frozen=True)
class Composed:
    """The result of a composition.

    Args:
        weights_digest: Of its weights; None where tensors were not to be hashed.
        device: cpu or cuda.
        seconds: From beginning to end.
        files: Its weight files by name.
        phases: Seconds that threads spent in each kind of work; they overlap, so the sum is more than `seconds`.
    """

    weights_digest: str | None
    device: str
    seconds: float
    files: dict[str, WrittenFile]
    phases: dict[str, float] = field(default_factory=dict)


def compose(
    base: Checkpoint,
    patches: Mapping[str, Patch],
    recipe: Recipe,
    out: Path,
    device: str = "auto",
    progress: Progress | None = None,
    *,
    digests: bool = True,
    file_digests: bool = False,
    check_base: bool = True,
    base_files: Mapping[str, str] | None = None,
    threads: int | None = None,
    device_memory: int | None = None,
) -> Composed:
    """Write the weight files of a composition: the base's names, headers, shards and order.

    Args:
        base: The base; its digest is checked while it is read.
        patches: The recipe's patches by the sha256 of their files, which the caller verifies.
        recipe: What to compose.
        out: An existing folder; the files appear together once all is written, or not at all.
        device: `auto`, `cpu` or `cuda`; it changes no byte.
        progress: Called with (bytes of the base begun, all).
        digests: Whether to hash the tensors that are written, and the base.
        file_digests: Whether to hash the files that are written, too.
        check_base: Whether to hash the base while it is read, to see that it is the recipe's; False for one that the
            caller has just hashed.
        base_files: sha256 of the base's weight files by name, where it is known that such files are the recipe's
            base: then they are held to these, and not their tensors to the recipe.
        threads: How many chunks are computed at a time; as many as there are processors when None.
        device_memory: Most bytes to use on a GPU; the smaller of 4 GiB and a quarter of what is free when None.

    Raises:
        BaseMismatch: Recipe, patches and base are not about the same weights.
        InvalidRecipe: A patch of the recipe is not given.
        InvalidPatch: A patch contradicts itself.
        NotFinite: A result overflows where the base was finite.
    """
    began, chosen = time.monotonic(), pick_device(device)
    touching: dict[str, list[tuple[Patch, float]]] = {}
    for item in recipe.items:
        if item.sha256 not in patches:
            raise InvalidRecipe(f"Patch {item.sha256} of the recipe is not given; fetch it first.", field="patches")
        patch = patches[item.sha256]
        _check_fits(item.sha256, patch, recipe, base)
        for tensor in patch.info.tensors:
            touching.setdefault(tensor, []).append((patch, scale(recipe.alpha, item.weight)))
    hashed = [
        *(["base files" if base_files else "base tensors"] if digests and check_base else []),
        *(["tensors"] if digests else []),
        *(["files"] if file_digests else []),
    ]
    phases = Phases()
    with (
        new_files([out / name for name in base.files]) as files,
        open_engine(chosen, device_memory, phases, recipe.base, base.size) as engine,
    ):
        if engine.resident and digests and check_base:
            base_files = None  # what stays is not read again, so only tensors can be held to something
            hashed[0] = "base tensors"
        depth = engine.depth(threads or processors())
        with Crew(depth, LANES, [engine.buffers() for _ in range(depth + SPARE)]) as crew:
            writer = Writer(base, touching, engine, crew, phases, hashed, Meter(base.size, progress))
            sizes = [writer.write(name, file) for name, file in zip(base.files, files, strict=True)]
            crew.drain()
        before = _check_base(base, recipe, writer, base_files, engine) if digests and check_base else {}
    after = before | writer.digests("tensors") if digests else {}
    whole = writer.digests("files") if file_digests else {}
    return Composed(
        digest_of(base.tensors, after) if digests else None,
        chosen,
        time.monotonic() - began,
        {name: WrittenFile(whole.get(name), size) for name, size in zip(base.files, sizes, strict=True)},
        phases.seconds,
    )


def _check_base(
    base: Checkpoint, recipe: Recipe, writer: Writer, base_files: Mapping[str, str] | None, engine: Engine
) -> dict[str, str]:
    """See that what was read is the recipe's base; return the digests of its tensors, where these were computed."""
    if base_files:
        for name, found in writer.digests("base files").items():
            if found != base_files[name]:
                raise BaseMismatch(f"Weight file {name} hashes to {found}, and {base_files[name]} is due.", field=name)
        return {}
    before = (engine.resident.digests if engine.resident else {}) | writer.digests("base tensors")
    found = digest_of(base.tensors, before)
    if found != recipe.base:
        raise BaseMismatch(f"The recipe is for base {recipe.base}, and this checkpoint is {found}.", field="base")
    if engine.resident:
        engine.resident.settle(before)
    return before


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

"""Compositions: base + alpha * patches combined, streamed, to the same bytes on every device.

    sum     scale_p = float32(alpha * weight_p * factor_p)  exact decimal product, one rounding
            acc     = float64(b);  for p ascending by sha256:  acc += float64(scale_p) * float64(value_p)
    ties    x = float64(float32(weight_p * factor_p)) * float64(value_p)
            x > 0: P += x, CP += w;   x < 0: N += -x, CN += w
            m = P / CP  if P >= N  else  -(N / CN);   acc = float64(b) + alpha * float32(m)   where P or N is not 0
    mean    S += x, C += w;   m = S / C;   acc as above where a patch touches the element
    out     = round(float32(acc)) to the base's dtype, nearest even both times (F64: no rounding)

The product of two float32 is exact in float64, so fused multiply-add changes nothing; the order is fixed; the places
of one patch are distinct, so nothing is added twice; a division is rounded to nearest everywhere. So every device,
number of threads and size of chunk gives the same bits.

Every stage works on chunks in buffers that are used again, so memory does not grow with the model: staging.py reads a
chunk, an engine composes it, writer.py writes and hashes, all at the same time.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from registry.breadcrumbs.composing.engines import CpuEngine, Engine, Rule
from registry.breadcrumbs.composing.lanes import Crew, Phases
from registry.breadcrumbs.composing.writer import LANES, Writer
from registry.breadcrumbs.formats.checkpoint import Checkpoint
from registry.breadcrumbs.formats.digest import digest_of
from registry.breadcrumbs.formats.header import TensorSpec, show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.formats.recipe import Recipe
from registry.breadcrumbs.kernels.devices import pick_device
from registry.errors import BaseMismatch, InvalidRecipe
from registry.files.durable import new_files
from registry.files.progress import Meter, Progress
from registry.files.threads import processors

SPARE_CHUNKS = 3
"""Chunks that are staged, written or hashed while others are composed."""


@dataclass(frozen=True)
class WrittenFile:
    """A file on disk: its sha256, None where files were not hashed, and its size in bytes."""

    sha256: str | None
    size: int


@dataclass(frozen=True)
class BaseTensors:
    """All tensors of a base, of which only some files are here.

    Args:
        specs: dtype and shape of each.
        digests: The sha256 of each one's raw bytes.
    """

    specs: Mapping[str, TensorSpec]
    digests: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(spec.bytes for spec in self.specs.values())


@dataclass(frozen=True)
class ComposedFiles:
    """Some weight files of a composition; the fields are those of `Composed`.

    Args:
        tensors: The sha256 of each tensor's raw bytes; empty where tensors were not hashed.
        device, seconds, files, phases, negative: As of `Composed`, of these files.
    """

    tensors: dict[str, str]
    device: str
    seconds: float
    files: dict[str, WrittenFile]
    phases: dict[str, float] = field(default_factory=dict)
    negative: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Composed:
    """The result of a composition.

    Args:
        weights_digest: Of its weights; None where tensors were not hashed.
        device: cpu or cuda.
        seconds: From beginning to end.
        files: Its weight files by name.
        phases: Seconds that threads spent in each kind of work; they overlap, so their sum exceeds `seconds`.
        negative: How many variances of batch norm are negative that were not in the base, by tensor.
    """

    weights_digest: str | None
    device: str
    seconds: float
    files: dict[str, WrittenFile]
    phases: dict[str, float] = field(default_factory=dict)
    negative: dict[str, int] = field(default_factory=dict)


def compose(
    base: Checkpoint,
    patches: Mapping[str, Patch],
    recipe: Recipe,
    out: Path | None,
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
        patches: The recipe's patches by the sha256 of their files; the caller has checked the files.
        recipe: What to compose.
        out: An existing folder; the files appear in it together once all is written, or not at all. None to write
            nothing, and only find the digests.
        device: `auto`, `cpu` or `cuda`; it changes no byte.
        progress: Called with (bytes of the base begun, all).
        digests: Whether to hash the tensors that are written, and the base.
        file_digests: Whether to hash the files that are written as well.
        check_base: Whether to hash the base while it is read and compare it with the recipe's; False for a base that
            the caller has just hashed.
        base_files: sha256 of the base's weight files by name, if files with these digests are known to be the
            recipe's base: then the files are compared with these, and not the tensors with the recipe.
        threads: How many chunks are computed at a time; as many as there are processors when None.
        device_memory: Most bytes to use on a GPU; the smaller of 4 GiB and a quarter of what is free when None.

    Raises:
        BaseMismatch: Recipe, patches and base are not about the same weights.
        InvalidRecipe: A patch of the recipe is missing from `patches`.
        InvalidPatch: A patch contradicts itself.
        NotFinite: A result overflows where the base was finite.
    """
    made = compose_files(
        base,
        patches,
        recipe,
        out,
        device,
        progress,
        digests=digests,
        file_digests=file_digests,
        check_base=check_base,
        base_files=base_files,
        threads=threads,
        device_memory=device_memory,
    )
    weights_digest = digest_of(base.tensors, made.tensors) if digests else None
    return Composed(weights_digest, made.device, made.seconds, made.files, made.phases, made.negative)


def compose_files(
    base: Checkpoint,
    patches: Mapping[str, Patch],
    recipe: Recipe,
    out: Path | None,
    device: str = "auto",
    progress: Progress | None = None,
    *,
    whole: BaseTensors | None = None,
    digests: bool = True,
    file_digests: bool = False,
    check_base: bool = True,
    base_files: Mapping[str, str] | None = None,
    threads: int | None = None,
    device_memory: int | None = None,
) -> ComposedFiles:
    """Write some weight files of a composition: those that `base` has, to the bytes that they have in the whole.

    A composition is all of its files, and the digest over the tensors of all of them. So files may be composed one
    after another, or on several machines, each of which has these files of the base and the patches.

    Args:
        base: The files of the base to compose: all, or some of them, which `open_files` opens.
        whole: All tensors of the base, if `base` has only some of its files; patches are held to these.
        patches, recipe, out, device, progress, digests, file_digests, check_base: As of `compose`.
        base_files, threads, device_memory: As of `compose`.

    Raises:
        BaseMismatch, InvalidRecipe, InvalidPatch, NotFinite: As of `compose`.
    """
    began, chosen = time.monotonic(), pick_device(device)
    if whole is not None and (digest := digest_of(whole.specs, whole.digests)) != recipe.base:
        raise BaseMismatch(f"The recipe is for base {recipe.base}, and these tensors are {digest}.", field="base")
    touching = find_touching(base, patches, recipe, whole)
    hashed = [
        *(["base files" if base_files else "base tensors"] if digests and check_base else []),
        *(["tensors"] if digests else []),
        *(["files"] if file_digests else []),
    ]
    phases, base_size = Phases(), base.size if whole is None else whole.size
    with (
        output(out, base) as files,
        open_engine(chosen, device_memory, phases, recipe, base_size, patches) as engine,
    ):
        if engine.resident and digests and check_base:
            base_files = None  # what stays on the GPU is not read again, so only tensors can be compared
            hashed[0] = "base tensors"
        depth = engine.depth(threads or processors())
        with Crew(depth, LANES, [engine.buffers() for _ in range(depth + SPARE_CHUNKS)]) as crew:
            writer = Writer(base, touching, engine, crew, phases, hashed, Meter(base.size, progress))
            sizes = [writer.write(name, file) for name, file in zip(base.files, files, strict=True)]
            writer.run()
            crew.drain()
        before = _check_base(base, recipe, writer, base_files, engine, whole) if digests and check_base else {}
        engine.settle(before)
    after = before | writer.digests("tensors") if digests else {}
    hashes = writer.digests("files") if file_digests else {}
    return ComposedFiles(
        after,
        chosen,
        time.monotonic() - began,
        {name: WrittenFile(hashes.get(name), size) for name, size in zip(base.files, sizes, strict=True)},
        phases.seconds,
        writer.variances.counts,
    )


@contextmanager
def output(out: Path | None, base: Checkpoint) -> Iterator[Sequence[BinaryIO | None]]:
    """Open the files to write, in the order of the base's; None for each if there is no folder for them."""
    if out is None:
        yield [None] * len(base.files)
        return
    for name in base.files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)  # of a component
    with new_files([out / name for name in base.files]) as files:
        yield files


def find_touching(
    base: Checkpoint, patches: Mapping[str, Patch], recipe: Recipe, whole: BaseTensors | None = None
) -> dict[str, list[tuple[Patch, float]]]:
    """Return the patches that touch each tensor of `base`, ascending by sha256, each with its scale there.

    With `whole`, the base has these tensors, and `base` some of them.

    Raises:
        BaseMismatch: A patch is not for this base.
        InvalidRecipe: A patch of the recipe is missing from `patches`.
    """
    touching: dict[str, list[tuple[Patch, float]]] = {}
    for item in recipe.items:
        if item.sha256 not in patches:
            raise InvalidRecipe(f"Patch {item.sha256} of the recipe is not given; fetch it first.", field="patches")
        patch = patches[item.sha256]
        _check_fits(item.sha256, patch, recipe, base.tensors if whole is None else whole.specs)
        for tensor in patch.info.tensors:
            by = recipe.scale_in(item, tensor) if tensor in base.tensors else None
            if by is not None:
                touching.setdefault(tensor, []).append((patch, by))
    return touching


@contextmanager
def open_engine(
    device: str,
    device_memory: int | None,
    phases: Phases,
    recipe: Recipe,
    base_size: int,
    patches: Mapping[str, Patch],
) -> Iterator[Engine]:
    """Open the engine of a device.

    Args:
        device: `cpu` or `cuda`.
        device_memory: Most bytes of a GPU's memory; the smaller of 4 GiB and a quarter of what is free when None.
        phases: Where time is counted.
        recipe: What is composed.
        base_size: Bytes of its base.
        patches: By the sha256 of their files: those of the recipe, and maybe others.
    """
    rule = Rule.of(recipe)
    if device == "cpu":
        yield CpuEngine(phases, rule)
        return
    from registry.breadcrumbs.composing.gpu.engine import open_gpu_engine  # imports torch

    composed = {item.sha256: patches[item.sha256] for item in recipe.items}
    with open_gpu_engine(device_memory, phases, rule, recipe.base, base_size, composed) as engine:
        yield engine


def _check_base(
    base: Checkpoint,
    recipe: Recipe,
    writer: Writer,
    base_files: Mapping[str, str] | None,
    engine: Engine,
    whole: BaseTensors | None,
) -> dict[str, str]:
    """Check that what was read is the recipe's base; return the digests of its tensors where they were computed."""
    if base_files:
        for name, sha256 in writer.digests("base files").items():
            if sha256 != base_files[name]:
                raise BaseMismatch(f"Weight file {name} hashes to {sha256}, not to {base_files[name]}.", field=name)
        return {}
    before = (engine.resident.digests if engine.resident else {}) | writer.digests("base tensors")
    if whole is not None:
        before = {name: before[name] for name in base.tensors}
        for name in base.tensors:
            if before[name] != whole.digests[name]:
                raise BaseMismatch(
                    f"Tensor {show(name)} hashes to {before[name]}, not to {whole.digests[name]}.", field=name
                )
        return before
    digest = digest_of(base.tensors, before)
    if digest != recipe.base:
        raise BaseMismatch(f"The recipe is for base {recipe.base}, and this checkpoint is {digest}.", field="base")
    return before


def _check_fits(sha256: str, patch: Patch, recipe: Recipe, specs: Mapping[str, TensorSpec]) -> None:
    if patch.info.base != recipe.base:
        raise BaseMismatch(f"Patch {sha256} is for base {patch.info.base}, the recipe for {recipe.base}.", field="base")
    for name, spec in patch.info.tensors.items():
        if specs.get(name) != spec:
            raise BaseMismatch(
                f"Patch {sha256} changes tensor {show(name)} as {spec.dtype} {list(spec.shape)}, "
                "and this checkpoint has no such tensor.",
                field=name,
            )

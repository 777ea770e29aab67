"""Conflicts: where patches of one base meet, and whether they pull the same way there.

With patches a and b, A and B the weights that each touches, N the weights of a tensor:

    overlap        |A and B|                                        weights that both touch
    iou            overlap / |A or B|
    lift           overlap / sum of |A| |B| / N over the tensors    1 is what masks drawn by chance would have
    sign conflict  opposed / overlap                                opposed: neither value is 0, and the signs differ
    ... by mass    sum of min(|a|, |b|) over the opposed / over the overlap         what is at stake there
    cosine         sum ab / (|a| |b|)                               over all weights; the numerator lives in the overlap
    on overlap     sum ab / (|a| |b|), all over the overlap         the angle where they meet
    cancellation   1 - sum |a + b| / (sum |a| + sum |b|)            the part of both that is lost when they are added
    norm ratio     |a| / |b|
    census         how many weights are touched by exactly 0, 1, ... of the patches

Where signs agree, |a + b| is |a| + |b|; elsewhere it is 2 min(|a|, |b|) less. So cancellation is twice the opposed mass
over the whole mass, and sum |a + b| needs no pass of its own.

Only sums are kept, so tensors, layers and models are added up alike, and ratios are taken at the end. A ratio whose
denominator is 0 is None.

What the numbers can say: which pairs meet more than by chance, on which layers, and whether they then reinforce or undo
each other. What they cannot say: whether the composed model is any good. Patches that share no weight can still break
each other, since layers feed layers; opposed signs can be harmless, a high cosine can be one task learned twice, and
how well such numbers predict a merge depends on method and partner. They say where to look first; evaluation of the
composed model decides.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from registry.breadcrumbs.comparing.engines import ConflictEngine, CpuConflictEngine, Measured, Numbers, zeros
from registry.breadcrumbs.comparing.sums import Sums, total
from registry.breadcrumbs.composing.staging import Arena, Stager
from registry.breadcrumbs.formats.header import TensorSpec, show
from registry.breadcrumbs.formats.patchfile import Patch
from registry.breadcrumbs.kernels import constants as columns
from registry.breadcrumbs.kernels.devices import pick_device
from registry.errors import BaseMismatch, InvalidPatch, InvalidRequest
from registry.files.progress import Meter, Progress
from registry.files.threads import call_each, processors

__all__ = ["Analysis", "Pair", "Sums", "analyse", "total"]

Pair = tuple[str, str]
"""sha256 of the first and of the second patch."""


@dataclass(frozen=True)
class Analysis:
    """What patches of one base do to the same weights.

    Args:
        pairs: For each requested pair, the sums of every tensor that one of the two touches, in name order.
        census: For each tensor that a patch touches, in name order: how many weights are touched by exactly 0, 1, ...
            and N of the N patches.
    """

    pairs: dict[Pair, dict[str, Sums]]
    census: dict[str, tuple[int, ...]]


def analyse(
    patches: Mapping[str, Patch],
    pairs: Sequence[Pair],
    device: str = "auto",
    progress: Progress | None = None,
    device_memory: int | None = None,
    *,
    threads: int | None = None,
) -> Analysis:
    """Compare patches of one base, reading each once, in bounded memory, however many pairs there are.

    Counts depend on the patches only. Sums are added in one order on each device, for any number of threads, and differ
    between devices in their last digits.

    Args:
        patches: The patches by the sha256 of their files; the caller has checked the files.
        pairs: Which of them to compare; a pair that is named twice is compared once.
        device: `cpu` or `cuda`; `auto` is the CPU, which is faster (docs/decisions.md).
        progress: Called with (weights begun, all), each weight counted for every patch that touches its tensor.
        device_memory: Most bytes of a GPU's memory; the smaller of 4 GiB and a quarter of what is free when None.
        threads: How many tensors to work on at a time on the CPU; as many as there are processors when None.

    Raises:
        InvalidRequest: A pair names a patch that is missing from `patches`, or there is no such device.
        BaseMismatch: The patches are not of one base.
        InvalidPatch: A patch contradicts itself, or has values that are not finite.
        InvalidInput: A file has changed since it was opened.
    """
    engine = open_engine("cpu" if device == "auto" else pick_device(device), device_memory)
    wanted = list(dict.fromkeys(pairs))
    for sha256 in sorted({sha256 for pair in wanted for sha256 in pair} - set(patches)):
        raise InvalidRequest(f"Patch {sha256} of a pair is not given; fetch it first.", field="pairs")
    touching = _touching(patches)
    specs = {name: patches[named[0]].info.tensors[name] for name, named in touching.items()}
    meter = Meter(sum(spec.numel * len(touching[name]) for name, spec in specs.items()), progress)
    local = threading.local()

    def measure(name: str) -> _Tensor:
        if not hasattr(local, "arena"):
            local.arena = engine.arena()
        numbers = {sha256: number for number, sha256 in enumerate(touching[name])}
        known = [pair for pair in wanted if pair[0] in numbers and pair[1] in numbers]
        compared = np.array([[numbers[one], numbers[two]] for one, two in known], np.int64).reshape(-1, 2)
        named = {sha256: patches[sha256] for sha256 in numbers}
        return _Tensor(known, _measure(name, specs[name], named, compared, engine, local.arena, meter))

    largest_first = sorted(specs, key=lambda name: specs[name].numel * len(touching[name]), reverse=True)
    measured = call_each(measure, largest_first, engine.workers(threads or processors()), "conflicts")
    return _put_together(wanted, patches, specs, touching, measured)


def open_engine(device: str, memory: int | None) -> ConflictEngine:
    """Return the engine of a device, `cpu` or `cuda`; `memory` is as of `find_gpu`."""
    if device == "cpu":
        return CpuConflictEngine()
    from registry.breadcrumbs.comparing.cuda_engine import open_gpu_engine  # imports torch

    return open_gpu_engine(memory)


def _touching(patches: Mapping[str, Patch]) -> dict[str, list[str]]:
    """Return which patches touch each tensor, both in order, after checking that the patches are of one base."""
    touching: dict[str, list[str]] = {}
    for sha256 in sorted(patches):
        info, before = patches[sha256].info, min(patches)
        if info.base != (base := patches[before].info.base):
            raise BaseMismatch(
                f"Patch {before} is for base {base}, and patch {sha256} for {info.base}; compare patches of one base.",
                field="base",
            )
        for name, spec in info.tensors.items():
            named = touching.setdefault(name, [])
            if named and (other := patches[named[0]].info.tensors[name]) != spec:
                raise BaseMismatch(
                    f"Patch {named[0]} changes tensor {show(name)} as {other.dtype} {list(other.shape)}, and patch "
                    f"{sha256} as {spec.dtype} {list(spec.shape)}; one of them is not for the base that it names.",
                    field=name,
                )
            named.append(sha256)
    return dict(sorted(touching.items()))


@dataclass(frozen=True)
class _Tensor:
    """The measures of one tensor, and the pairs of which both patches touch it."""

    pairs: list[Pair]
    measured: Measured


@dataclass(frozen=True)
class _Unread:
    """A base whose bytes are not read."""

    tensors: Mapping[str, TensorSpec]

    def place(self, name: str) -> tuple[int, int]:
        """Return a descriptor that is not a file's."""
        return -1, 0


def _measure(
    name: str,
    spec: TensorSpec,
    patches: Mapping[str, Patch],
    pairs: Numbers,
    engine: ConflictEngine,
    arena: Arena,
    meter: Meter,
) -> Measured:
    """Measure a tensor, chunk after chunk; the chunks have the patches' numbers in place of scales."""
    touching = [(patch, float(number)) for number, patch in enumerate(patches.values())]
    stager = Stager(_Unread({name: spec}), name, touching, engine.step(len(touching)))
    measured = zeros(len(touching), len(pairs))
    for first in range(0, spec.numel, stager.step):
        chunk = stager.stage(arena, first, min(first + stager.step, spec.numel), with_base=False)
        chunk.read_rest(arena)
        more = engine.measure(chunk, arena, len(touching), pairs)
        for number in np.flatnonzero(~np.isfinite(more.own[:, columns.L1])):
            raise InvalidPatch(
                f"Patch {list(patches)[number]} has a value of {show(name)} that is NaN or Inf; check the file.",
                field=name,
            )
        measured.add(more)
        meter.add(chunk.size * len(touching))
    return measured


def _put_together(
    wanted: Sequence[Pair],
    patches: Mapping[str, Patch],
    specs: Mapping[str, TensorSpec],
    touching: Mapping[str, Sequence[str]],
    tensors: Mapping[str, _Tensor],
) -> Analysis:
    """Return the analysis, given the measures of every tensor."""
    pairs: dict[Pair, dict[str, Sums]] = {pair: {} for pair in wanted}
    census = {}
    for name, spec in specs.items():
        known, measured = tensors[name].pairs, tensors[name].measured
        counts = np.zeros(len(patches) + 1, np.int64)
        counts[: len(measured.census)] = measured.census
        counts[0] = spec.numel - counts[1:].sum()
        census[name] = tuple(counts.tolist())
        own = dict(zip(touching[name], measured.own.tolist(), strict=True))
        both = dict(zip(known, zip(measured.counts.tolist(), measured.sums.tolist(), strict=True), strict=True))
        for pair in wanted:
            if pair[0] in own or pair[1] in own:
                nnz = [patches[sha256].info.nnz.get(name, 0) for sha256 in pair]
                pairs[pair][name] = _sums(spec.numel, nnz, [own.get(sha256) for sha256 in pair], both.get(pair))
    return Analysis(pairs, census)


def _sums(
    numel: int,
    nnz: Sequence[int],
    own: Sequence[list[float] | None],
    both: tuple[list[int], list[float]] | None,
) -> Sums:
    """Return the sums of a pair on one tensor.

    Args:
        numel: Weights of the tensor.
        nnz: Weights that each patch touches.
        own: L1 and SQUARES of each patch; None for one that does not touch the tensor.
        both: Counts and sums of the pair; None unless both touch the tensor.
    """
    first, second = (part or [0.0, 0.0] for part in own)
    counts, sums = both or ([0, 0], [0.0] * 5)
    mass, against = first[columns.L1] + second[columns.L1], sums[columns.OPPOSED_MASS]
    return Sums(
        numel=numel,
        first=nnz[0],
        second=nnz[1],
        overlap=counts[columns.OVERLAP],
        opposed=counts[columns.OPPOSED],
        expected=nnz[0] * nnz[1] / numel,
        opposed_mass=against,
        overlap_mass=sums[columns.OVERLAP_MASS],
        dot=sums[columns.DOT],
        first_squares=first[columns.SQUARES],
        second_squares=second[columns.SQUARES],
        first_overlap_squares=sums[columns.FIRST_SQUARES],
        second_overlap_squares=sums[columns.SECOND_SQUARES],
        first_l1=first[columns.L1],
        second_l1=second[columns.L1],
        abs_sum=max(0.0, mass - 2 * against),
    )

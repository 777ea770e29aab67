"""Composing on a GPU: the kernel against a copy of as many bytes on the device, and end to end with its phases.

    one launch        all patches on one large chunk, by the kernel alone
    small launches    as many weights, in chunks as small as composing cuts them
    in work           bytes of base, patches and output / seconds of the phase `kernel`, while other chunks are copied

Nothing is measured where there is no GPU.
"""

import argparse
import filecmp
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.machine import filesystem_of
from benchmarks.measure import Sample, Series, alternate, copy_files, read_files
from benchmarks.results import Bar, Result, Table, documents, megabytes, seconds, times
from benchmarks.science.cases import Case, Files, PatchFile, add_case, case_of, output, weight_files, workplace
from benchmarks.science.compose import compose_into
from benchmarks.science.jobs import compose_files
from registry.breadcrumbs.composing.residents import RESIDENTS

LARGE, SMALL = 2**26, 2**23
"""Weights of a large chunk, and of one as composing cuts them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, params="1B", rounds=5)
    parser.add_argument("--device-memory", type=int, help="bytes that composing may use on the GPU (its default)")


def run(args: argparse.Namespace) -> Result | None:
    """Measure composing on a GPU, where there is one."""
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was measured.")
        return None
    case = case_of(args)
    needed = 4 * case.weight_bytes + case.patches * case.patch_bytes
    with workplace(args, needed) as files, output(files) as out:
        return measure(case, files, files.patches(case), out, args.rounds, args.device_memory)


def measure(
    case: Case, files: Files, patches: Sequence[PatchFile], out: Path, rounds: int, device_memory: int | None
) -> Result:
    """Measure composing patches that are made, on the GPU and on the CPU."""
    base, paths = files.base(case), [patch.path for patch in patches]
    weights = weight_files([base])
    tiny_base, _, tiny_patches = files.tiny(case)
    for device in ("cpu", "cuda"):
        for digests in (False, True):
            compose_into(out, tiny_base, tiny_patches, case, device, digests=digests, device_memory=device_memory)
    kernels = measure_kernel(case, rounds)
    read_files([*weights, *paths])  # into page cache

    def on_gpu(digests: bool, there: bool = False) -> Sample:
        RESIDENTS.drop(patches[0].base)
        if there:  # a composition that hashes leaves its base there
            compose_into(out, base, patches, case, "cuda", device_memory=device_memory)
        return compose_into(out, base, patches, case, "cuda", digests=digests, device_memory=device_memory)

    floor = "cat patches, cp base"
    found = alternate(
        {
            floor: lambda: Sample(read_files(paths).seconds + copy_files(weights, out).seconds),
            "GPU": lambda: on_gpu(False),
            "GPU, hashing": lambda: on_gpu(True),
            "GPU, hashing, base there": lambda: on_gpu(True, there=True),
            "CPU": lambda: compose_into(out, base, patches, case, digests=False),
            "CPU, hashing": lambda: compose_into(out, base, patches, case),
        },
        rounds,
    )
    RESIDENTS.drop(patches[0].base)
    moved = 2 * case.weight_bytes + sum(patch.size for patch in patches)
    rows = [
        [name, seconds(one.median), one.spread, times(one.median / found[floor].median)] for name, one in found.items()
    ]
    tables = [Table("End to end, and the ratio to the floor", ["", "median", "min..max", "to floor"], rows)]
    phases = found["GPU, hashing"].phases()
    shown = [[name, seconds(spent), f"{moved / spent / 1e9:.1f} GB/s"] for name, spent in phases.items() if spent]
    tables.append(Table("Phases of GPU, hashing; they overlap", ["", "median", "all that moves / time"], shown))
    copy = kernels["device copy"].speed
    rows = [
        [
            name,
            megabytes(one.moved),
            f"{1e3 * one.series.median:.3f} ms",
            f"{one.speed / 1e9:.0f} GB/s",
            f"{one.speed / copy:.0%}",
        ]
        for name, one in kernels.items()
    ]
    if phases.get("kernel"):
        speed = moved / phases["kernel"]
        rows.append(
            ["in work", megabytes(moved), seconds(phases["kernel"]), f"{speed / 1e9:.0f} GB/s", f"{speed / copy:.0%}"]
        )
    tables.append(Table("On the device", ["", "moved", "median", "", "of the copy"], rows))
    bars = [
        Bar("kernel / device copy", kernels["one launch"].speed / copy, 0.7, least=True),
        Bar("CPU and GPU give the same bytes", float(same(out, base, patches, case, device_memory)), 1.0, least=True),
    ]
    notes = [
        "The base is there only if it fits into the device memory allowed, beside the chunks in work; else the line "
        "that says so is like the one above it."
    ]
    parameters = {
        **case.document(),
        "rounds": rounds,
        "device memory": device_memory or "default",
        "inputs on": filesystem_of(base),
        "output on": filesystem_of(out),
    }
    series = documents(found | {name: one.series for name, one in kernels.items()})
    numbers = {name: one.speed for name, one in kernels.items()}
    return Result("gpu", parameters, tables, bars, series | {"phases": phases, "numbers": numbers}, notes)


@dataclass(frozen=True)
class Moving:
    """Bytes that were moved on the device, and the seconds that it took."""

    moved: int
    series: Series

    @property
    def speed(self) -> float:
        """Bytes a second."""
        return self.moved / self.series.median


def measure_kernel(
    case: Case, rounds: int, large: int = LARGE, small: int = SMALL, device: str = "cuda"
) -> dict[str, Moving]:
    """Measure the kernel alone, and a copy of as many bytes."""
    from benchmarks.science.kernel import (  # Triton, which need not be there without a GPU
        Copy,
        make_launch,
        measure_all,
    )

    place = torch.device(device)
    whole, *parts = (
        make_launch(size, case.patches, case.density, case.dtype, case.alpha, case.seed + number, place)
        for number, size in enumerate([large, *[small] * (large // small)])
    )
    copy, moved = Copy(whole.moved, place), sum(part.moved for part in parts)
    found = alternate(
        {
            "device copy": lambda: measure_all([copy]),
            "one launch": lambda: measure_all([whole]),
            "small launches": lambda: measure_all(parts),
        },
        rounds,
    )
    sizes = {"device copy": copy.moved, "one launch": whole.moved, "small launches": moved}
    return {name: Moving(sizes[name], one) for name, one in found.items()}


def same(out: Path, base: Path, patches: Sequence[PatchFile], case: Case, device_memory: int | None) -> bool:
    """Compose on the GPU and on the CPU, and compare every byte of the files."""
    given = {patch.sha256: patch.path for patch in patches}
    with tempfile.TemporaryDirectory(dir=out) as one, tempfile.TemporaryDirectory(dir=out) as other:
        first = compose_files(base, given, Path(one), case.alpha, "cuda", device_memory=device_memory)
        second = compose_files(base, given, Path(other), case.alpha)
        equal = filecmp.cmpfiles(one, other, list(second.files), shallow=False)[0]
        return first.weights_digest == second.weights_digest and sorted(equal) == sorted(second.files)

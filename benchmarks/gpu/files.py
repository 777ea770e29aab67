"""Composing on a GPU from files to files, with its phases, and on the device against a copy of as many bytes.

    one launch        all patches on one large chunk, by the kernel alone
    resident          the whole model, base and patches there already, to memory there
    in work           bytes of base, patches and output / seconds of the phase `kernel`, while other chunks are copied

Nothing is measured where there is no GPU.
"""

import argparse
import filecmp
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.gpu.kernels import WEIGHTS, Moving, measure_works
from benchmarks.gpu.works import Work, composing, composing_by_triton, make_chunk
from benchmarks.machine import filesystem_of
from benchmarks.measure import Sample, alternate, copy_files, read_files
from benchmarks.results import Bar, Result, Table, documents, megabytes, seconds, times
from benchmarks.science.cases import Case, Files, PatchFile, add_case, case_of, output, weight_files, workplace
from benchmarks.science.compose import compose_into
from benchmarks.science.jobs import compose_files
from registry.breadcrumbs.composing.compose import compose, find_touching, open_engine
from registry.breadcrumbs.composing.gpu.residents import RESIDENTS
from registry.breadcrumbs.composing.lanes import Phases
from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import Item, make_recipe
from registry.breadcrumbs.kernels.cuda import launching

SETS = 2
"""Sets of inputs that take turns."""


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
    there = torch.device("cuda")
    kernels = measure_kernel(case, rounds, there)
    if launching.can_launch(there):
        kernels |= measure_resident(case, base, patches, rounds, there)
    read_files([*weights, *paths])  # into page cache

    def forget() -> None:
        RESIDENTS.drop(patches[0].base, *(patch.sha256 for patch in patches))

    def on_gpu(digests: bool, there: bool = False) -> Sample:
        forget()
        if there:  # a composition that hashes leaves base and patches there
            compose_into(out, base, patches, case, "cuda", device_memory=device_memory)
        return compose_into(out, base, patches, case, "cuda", digests=digests, device_memory=device_memory)

    floor = "cat patches, cp base"
    found = alternate(
        {
            floor: lambda: Sample(read_files(paths).seconds + copy_files(weights, out).seconds),
            "GPU": lambda: on_gpu(False),
            "GPU, hashing": lambda: on_gpu(True),
            "GPU, hashing, all there": lambda: on_gpu(True, there=True),
            "CPU": lambda: compose_into(out, base, patches, case, digests=False),
            "CPU, hashing": lambda: compose_into(out, base, patches, case),
        },
        rounds,
    )
    forget()
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
        *(
            [Bar("resident / kernel", kernels["one launch"].speed / kernels["resident"].speed, 1.3)]
            if "resident" in kernels
            else []
        ),
        Bar("GPU / cat patches, cp base", found["GPU"].median / found[floor].median, 1.15),
        Bar("CPU and GPU give the same bytes", float(same(out, base, patches, case, device_memory)), 1.0, least=True),
    ]
    notes = [
        "Base and patches are there only if they fit into the device memory allowed, beside chunks in work; else the "
        "line that says so is like the one above it."
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


def measure_kernel(case: Case, rounds: int, device: torch.device, weights: int = WEIGHTS) -> dict[str, Moving]:
    """Measure the kernel that composing uses, alone, and a copy of as many bytes."""
    chunks = [
        make_chunk(weights, case.patches, case.density, case.dtype, case.alpha, case.seed + number, device)
        for number in range(SETS)
    ]
    work = (composing if launching.can_launch(device) else composing_by_triton)(chunks)
    found = measure_works({"one launch": work}, rounds, device)
    return {"device copy": found["copy"], "one launch": found["one launch"]}


def measure_resident(
    case: Case, base: Path, patches: Sequence[PatchFile], rounds: int, device: torch.device
) -> dict[str, Moving]:
    """Measure composing a model of a base and patches that stay on the device, to memory there."""
    with ExitStack() as stack:
        model = stack.enter_context(open_checkpoint(base))
        opened = {patch.sha256: stack.enter_context(open_patch(patch.path)) for patch in patches}
        recipe = make_recipe(patches[0].base, case.alpha, [Item(sha256) for sha256 in opened])
        touching = find_touching(model, opened, recipe)
        memory = 2 * (model.size + sum(patch.size for patch in patches)) + 2**30
        compose(model, opened, recipe, None, "cuda", device_memory=memory)  # leaves there what it needs
        with open_engine("cuda", memory, Phases(), recipe, model.size, opened) as engine:
            outs = {name: torch.empty(model.bytes_of(name), dtype=torch.uint8, device=device) for name in touching}
            written = engine.write_there(model, touching, outs)
            assert written.keys() == touching.keys(), "base and patches do not stay on the device"
            moved = 2 * sum(out.nbytes for out in outs.values()) + sum(patch.size for patch in patches)
            work = Work([lambda: engine.write_there(model, touching, outs)], moved)
            return {"resident": measure_works({"resident": work}, rounds, device)["resident"]}


def same(out: Path, base: Path, patches: Sequence[PatchFile], case: Case, device_memory: int | None) -> bool:
    """Compose on the GPU and on the CPU, and compare every byte of the files."""
    given = {patch.sha256: patch.path for patch in patches}
    with tempfile.TemporaryDirectory(dir=out) as one, tempfile.TemporaryDirectory(dir=out) as other:
        first = compose_files(base, given, Path(one), case.alpha, "cuda", device_memory=device_memory)
        second = compose_files(base, given, Path(other), case.alpha)
        equal = filecmp.cmpfiles(one, other, list(second.files), shallow=False)[0]
        return first.weights_digest == second.weights_digest and sorted(equal) == sorted(second.files)

"""A live model on a GPU: how long a switch of recipe takes, and whether the bits are those of the release.

    the first     base and patches are read, and stay on the GPU
    others        all that a recipe needs is there: only the GPU works; moved: base, patches and model, once each
    copy          as many bytes, copied on the device

Nothing is measured where there is no GPU.
"""

import argparse
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from benchmarks.gpu.works import copying, measure_work
from benchmarks.measure import Sample, Series, alternate
from benchmarks.results import Bar, Result, Table, documents, megabytes, times
from benchmarks.science.cases import Case, PatchFile, add_case, case_of, workplace
from client.live.weights import LiveWeights
from registry.breadcrumbs.composing.compose import compose
from registry.breadcrumbs.composing.gpu.residents import RESIDENTS
from registry.breadcrumbs.formats.arrays import read_raw
from registry.breadcrumbs.formats.checkpoint import Checkpoint, open_checkpoint
from registry.breadcrumbs.formats.patchfile import open_patch
from registry.breadcrumbs.formats.recipe import make_recipe
from registry.breadcrumbs.kernels.dtypes import TORCH_DTYPES

ALPHAS = "0.3", "0.5"
"""Of the recipes that take turns: every tensor differs between them."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, params="1B", rounds=7)
    parser.add_argument("--device-memory", type=int, default=2**35, help="bytes that may be used on the GPU (2^35)")


def run(args: argparse.Namespace) -> Result | None:
    """Measure switching, where there is a GPU."""
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was measured.")
        return None
    case = case_of(args)
    with workplace(args, 2 * case.weight_bytes + case.patches * case.patch_bytes) as files:
        ask = case, files.base(case), files.patches(case), args.rounds, args.device_memory
        return measure(*ask, torch.device("cuda"))


def module_of(base: Checkpoint, device: torch.device) -> torch.nn.Module:
    """Return a module whose parameters are the tensors of a checkpoint, by their names, on a device."""
    whole = torch.nn.Module()
    for name, spec in base.tensors.items():
        *path, leaf = name.split(".")
        part = whole
        for step in path:
            if not hasattr(part, step):
                part.add_module(step, torch.nn.Module())
            part = part.get_submodule(step)
        octets = torch.from_numpy(read_raw(base, name, 0, spec.numel)).to(device)
        tensor = octets.view(TORCH_DTYPES[spec.dtype]).view(spec.shape)
        part.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    return whole


def measure(
    case: Case, path: Path, patches: Sequence[PatchFile], rounds: int, memory: int, device: torch.device
) -> Result:
    """Measure switching a module between two recipes of all patches."""
    with ExitStack() as stack:
        base = stack.enter_context(open_checkpoint(path))
        opened = {patch.sha256: stack.enter_context(open_patch(patch.path)) for patch in patches}
        digest = patches[0].base
        recipes = [make_recipe(digest, alpha, [(sha256, "1") for sha256 in opened]) for alpha in ALPHAS]
        due = [compose(base, opened, recipe, None, "cpu", check_base=False).weights_digest for recipe in recipes]
        module = module_of(base, device)
        live = LiveWeights(
            module, base, opened, make_recipe(digest, "1", []), digest, device="cuda", device_memory=memory
        )
        RESIDENTS.drop(digest, *opened)
        turn = 0

        def switch() -> Sample:
            nonlocal turn
            turn += 1
            began = time.monotonic()
            live.compose(recipes[turn % 2])
            return Sample(time.monotonic() - began)

        first = switch()
        moved = 2 * base.size + sum(patch.size for patch in patches)
        copy = copying(moved, device)
        found = alternate({"copy": lambda: measure_work(copy, device), "switch": switch}, rounds)
        same = []
        for recipe, expected in zip(recipes, due, strict=True):
            live.compose(recipe)
            same.append(live.verify(expected) == expected)
    found = {"first switch": Series([first]), **found}
    rows = [
        [name, f"{1e3 * one.median:.3f} ms", f"{1e3 * one.least:.3f}..{1e3 * one.most:.3f} ms", megabytes(moved)]
        for name, one in found.items()
    ]
    bars = [
        Bar("switch / copy on the device of as many bytes", found["switch"].median / found["copy"].median, 1.3 / 0.7),
        Bar("the model's bits are the CPU's", float(all(same)), 1.0, least=True),
    ]
    note = f"A switch takes {times(found['switch'].median / found['copy'].median)} of the copy, the first one apart."
    parameters = {**case.document(), "rounds": rounds, "device memory": memory}
    table = Table("Switching a live model", ["", "median", "min..max", "moved"], rows)
    return Result("live", parameters, [table], bars, documents(found), [note])

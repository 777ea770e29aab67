"""Comparing patches against reading them once, `cat patches >/dev/null`, and against doing it plainly.

a pair      the first two patches
all         every pair of all patches, and how many patches touch each weight: each file is still read once
plainly     a pair, as one would write it with torch: each tensor of both as a dense one, and whole tensors compared
"""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import combinations

import numpy as np
import torch

from benchmarks.machine import filesystem_of
from benchmarks.measure import alternate, read_files, timed
from benchmarks.results import Bar, Result, Table, documents, megabytes, seconds, times
from benchmarks.science.cases import Case, Files, PatchFile, add_case, case_of, is_asked, workplace
from registry.breadcrumbs.comparing.conflicts import analyse, total
from registry.breadcrumbs.formats.arrays import read_floats, read_numbers
from registry.breadcrumbs.formats.patchfile import Patch, open_patch


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, rounds=5)


def run(args: argparse.Namespace) -> Result:
    """Measure comparing."""
    case = case_of(args)
    if case.patches < 2:
        raise SystemExit("One patch has nothing to be compared with; choose --patches 2 or more.")
    with workplace(args, 2 * case.weight_bytes + case.patches * case.patch_bytes) as files:
        return measure(case, files, args.rounds)


def measure(case: Case, files: Files, rounds: int) -> Result:
    """Measure comparing patches that are made; both ways must agree."""
    patches = files.patches(case)
    two, count = patches[:2], len(patches) * (len(patches) - 1) // 2
    compare(files.tiny(case)[2][:1] + files.tiny(case)[2][:1])
    require_equal(two)
    read_files([patch.path for patch in patches])  # into page cache
    ours, every, plainly = "a pair", f"all {count} pairs of {len(patches)}", "a pair, plainly"
    read_two, read_all = "cat of 2 patches", f"cat of {len(patches)} patches"
    found = alternate(
        {
            read_two: lambda: read_files([patch.path for patch in two]),
            ours: lambda: timed(lambda: compare(two)),
            plainly: lambda: timed(lambda: compare_plainly(two)),
            read_all: lambda: read_files([patch.path for patch in patches]),
            every: lambda: timed(lambda: compare(patches)),
        },
        rounds,
    )
    floors = {read_two: read_two, ours: read_two, plainly: read_two, read_all: read_all, every: read_all}
    rows = [
        [
            name,
            seconds(found[name].median),
            found[name].spread,
            times(found[name].median / found[floor].median),
            times(found[name].median / found[ours].median),
        ]
        for name, floor in floors.items()
    ]
    sizes = [
        ["2 patches", megabytes(sum(patch.size for patch in two))],
        [f"{len(patches)} patches", megabytes(sum(patch.size for patch in patches))],
    ]
    tables = [
        Table("Time, and its ratio to reading", ["", "median", "min..max", "to reading", "to a pair"], rows),
        Table("What is read", ["", ""], sizes),
    ]
    bars = [
        Bar("a pair compared plainly / a pair", found[plainly].median / found[ours].median, 10, True, is_asked(case)),
        Bar("all pairs of 8 / cat patches", found[every].median / found[read_all].median, 6, judged=is_asked(case)),
    ]
    parameters = {**case.document(), "rounds": rounds, "inputs on": filesystem_of(patches[0].path)}
    return Result("conflicts", parameters, tables, bars, documents(found))


def compare(patches: Sequence[PatchFile]) -> tuple[int, float]:
    """Compare all patches; return overlap and dot product of the first pair."""
    with ExitStack() as stack:
        opened = {str(at): stack.enter_context(open_patch(patch.path)) for at, patch in enumerate(patches)}
        found = analyse(opened, list(combinations(opened, 2)), "cpu")
    sums = total(found.pairs["0", "1"].values())
    return sums.overlap, sums.dot


def compare_plainly(patches: Sequence[PatchFile]) -> tuple[int, float]:
    """Do the same for two patches, tensor by tensor, with dense ones; return overlap and dot product."""
    overlap, dot = 0, 0.0
    with open_patch(patches[0].path) as one, open_patch(patches[1].path) as two:
        for name in one.info.tensors:  # of a synthetic model every patch touches every tensor
            (in_one, a), (in_two, b) = dense(one, name), dense(two, name)
            both, product, less = in_one & in_two, a * b, torch.minimum(a.abs(), b.abs())
            opposed = product < 0
            overlap += int(both.sum())
            dot += float(product.sum())
            rest = [opposed.sum(), less[opposed].sum(), less.sum(), (a + b).abs().sum(), (in_one ^ in_two).sum()]
            for part in (a, b):
                rest += [part.abs().sum(), part.square().sum(), part[both].square().sum()]
            assert torch.stack([number.double() for number in rest]).isfinite().all()
    return overlap, dot


def dense(patch: Patch, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mask and values of a tensor, bool and float64 [numel]."""
    size, mask, values = patch.info.tensors[name].numel, patch.mask_entry(name), patch.value_entry(name)
    kept = read_numbers(patch, mask.name, 0, mask.shape[0])
    if mask.dtype == "U8":
        bits = torch.from_numpy(np.unpackbits(kept, count=size, bitorder="little")).bool()
    else:
        bits = torch.zeros(size, dtype=torch.bool)
        bits[torch.from_numpy(kept).long()] = True
    whole = torch.zeros(size, dtype=torch.float64)
    whole[bits] = torch.from_numpy(read_floats(patch, values.name, 0, values.shape[0])).double()
    return bits, whole


def require_equal(patches: Sequence[PatchFile]) -> None:
    """See that both ways find the same."""
    ours, plain = compare(patches), compare_plainly(patches)
    if ours[0] != plain[0] or abs(ours[1] - plain[1]) > 1e-9 * abs(plain[1]):
        raise SystemExit(f"The ways to compare disagree: {ours} and {plain}.")

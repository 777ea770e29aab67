"""Composing against the least that must happen: reading every input once, writing the output once.

The floor is `cat patches >/dev/null; cp base out`: real processes, files in page cache, output in memory. The other
floor is the bandwidth of memory: the same bytes, each moved once, at the speed of a large copy by all cores.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import filesystem_of
from benchmarks.measure import Bandwidth, Sample, alternate, copy_files, read_files, run_process
from benchmarks.results import Bar, Result, Table, documents, megabytes, seconds, times
from benchmarks.science.cases import (
    Case,
    Files,
    PatchFile,
    add_case,
    case_of,
    is_asked,
    output,
    weight_files,
    workplace,
)
from benchmarks.science.jobs import compose_files

HASHING: dict[str, dict[str, Any]] = {
    "compose": {"digests": False},
    "compose, hashing": {"check_base": False},
    "compose, hashing the base too": {},
    "compose, hashing files too": {"file_digests": True},
}
"""What is hashed: nothing; the tensors of the output, for its digest; those of the base, to see that it is the recipe's
(as `crumb apply` does); and the files that are written (as the server does)."""

CRUMB = "import sys; from client.cli import main; sys.exit(main())"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, rounds=7)


def run(args: argparse.Namespace) -> Result:
    """Measure composing."""
    case = case_of(args)
    needed = 3 * case.weight_bytes + case.patches * case.patch_bytes
    with workplace(args, needed) as files, output(files) as out:
        patches = files.patches(case)
        return measure(case, files, patches, out, args.rounds)


def measure(case: Case, files: Files, patches: Sequence[PatchFile], out: Path, rounds: int) -> Result:
    """Measure composing patches that are made."""
    base, paths, memory = files.base(case), [patch.path for patch in patches], Bandwidth()
    weights = weight_files([base])
    tiny_base, _, tiny_patches = files.tiny(case)
    for hashing in HASHING.values():
        compose_into(out, tiny_base, tiny_patches, case, **hashing)
    read_files([*weights, *paths])  # into page cache
    floor, whole, known = "cat patches, cp base", "crumb apply, whole process", "crumb apply, files known"

    def floor_of() -> Sample:
        return Sample(read_files(paths).seconds + copy_files(weights, out).seconds)

    found = alternate(
        {
            "cat base": lambda: read_files(weights),
            floor: floor_of,
            "copy in memory": memory.measure,
            **{name: partial(compose_into, out, base, patches, case, **hashing) for name, hashing in HASHING.items()},
            whole: lambda: apply_into(out, base, patches, case, fresh=True),
            known: lambda: apply_into(out, base, patches, case),
        },
        rounds,
    )
    bandwidth = memory.bytes_moved() / found["copy in memory"].median
    moved = 2 * case.weight_bytes + sum(patch.size for patch in patches)
    at_bandwidth = moved / bandwidth
    wider = found["cat base"].median + found[floor].median
    lowest = found[floor]

    rows = [
        [
            name,
            seconds(found[name].median),
            found[name].spread,
            times(found[name].median / lowest.median),
            times(found[name].median / wider),
            times(found[name].median / at_bandwidth),
        ]
        for name in (floor, *HASHING, whole, known)
    ]
    columns = ["", "median", "min..max", "to floor", "to cat all, cp base", "to memory speed"]
    setup = Table(
        "What moves",
        ["", ""],
        [
            ["base", megabytes(case.weight_bytes)],
            [f"{len(patches)} patches", megabytes(sum(patch.size for patch in patches))],
            ["all, with the output", megabytes(moved)],
            [f"copy in memory, {memory.threads} threads, read + write", f"{bandwidth / 1e9:.1f} GB/s"],
            ["all at that speed", seconds(at_bandwidth)],
        ],
    )
    phases = found["compose, hashing files too"].phases()
    tables = [Table("Time, and its ratio to the floors", columns, rows), setup]
    if phases:
        shown = [[name, seconds(spent)] for name, spent in phases.items()]
        tables.append(Table("Processor time of all threads in compose, hashing files too", ["", "median"], shown))
    bars = [
        Bar(f"{name} / floor", found[name].median / lowest.median, limit, judged=is_asked(case))
        for name, limit in (("compose", 1.5), ("compose, hashing", 2.0), (whole, 4.0), (known, 3.0))
    ]
    parameters = {
        **case.document(),
        "rounds": rounds,
        "inputs on": filesystem_of(base),
        "output on": filesystem_of(out),
    }
    series = documents(found) | {"numbers": {"at bandwidth": at_bandwidth, "moved": moved, "bandwidth": bandwidth}}
    return Result("compose", parameters, tables, bars, series)


def compose_into(
    out: Path,
    base: Path,
    patches: Sequence[PatchFile],
    case: Case,
    device: str = "cpu",
    **options: Any,
) -> Sample:
    """Measure a composition in this process, and remove what it wrote."""
    folder = Path(tempfile.mkdtemp(dir=out))
    given = {patch.sha256: patch.path for patch in patches}
    began = time.perf_counter()
    composed = compose_files(base, given, folder, case.alpha, device, **options)
    took = time.perf_counter() - began
    shutil.rmtree(folder)
    return Sample(took, phases=composed.phases)


def apply_into(out: Path, base: Path, patches: Sequence[PatchFile], case: Case, fresh: bool = False) -> Sample:
    """Measure `crumb apply` from the start of its process to the end, and remove what it wrote.

    Args:
        out: An existing folder, in which the cache lies as well.
        base, patches, case: What is composed.
        fresh: Whether the cache is emptied first, so that base and patches were never seen.
    """
    folder, home = out / "applied", out / "home"
    if fresh:
        shutil.rmtree(home, ignore_errors=True)
    paths = [patch.path for patch in patches]
    command: list[str | Path] = [sys.executable, "-c", CRUMB, "apply", base, *paths, "-o", folder]
    options = ["--alpha", case.alpha, "--device", "cpu", "--quiet"]
    sample = run_process([*command, *options], os.environ | {"CRUMB_HOME": str(home)})
    shutil.rmtree(folder)
    return sample

"""Making a patch against reading both checkpoints, `cat base tuned >/dev/null`."""

import argparse
import tempfile
from pathlib import Path

from benchmarks.machine import filesystem_of
from benchmarks.measure import Sample, alternate, read_files, timed
from benchmarks.results import Bar, Result, Table, documents, megabytes, seconds, times
from benchmarks.science.cases import Case, Files, add_case, case_of, is_asked, output, weight_files, workplace
from benchmarks.science.jobs import diff_files


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, rounds=7)


def run(args: argparse.Namespace) -> Result:
    """Measure diff."""
    case = case_of(args)
    with workplace(args, 2 * case.weight_bytes + 3 * case.patch_bytes) as files, output(files) as out:
        return measure(case, files, out, args.rounds)


def measure(case: Case, files: Files, out: Path, rounds: int) -> Result:
    """Measure diff on the first fine-tuned model."""
    base, tuned = files.base(case), files.tuned(case, 1)
    both = weight_files([base, tuned])
    tiny_base, tiny_tuned, _ = files.tiny(case)
    sizes: list[int] = []

    def diff_into(ours: Path, theirs: Path) -> Sample:
        with tempfile.TemporaryDirectory(dir=out) as folder:
            path = Path(folder) / "patch.safetensors"
            sample = timed(lambda: diff_files(ours, theirs, path, case.mask))
            sizes.append(path.stat().st_size)
        return sample

    diff_into(tiny_base, tiny_tuned)
    read_files(both)  # into page cache
    floor = "cat base tuned"
    found = alternate({floor: lambda: read_files(both), "diff": lambda: diff_into(base, tuned)}, rounds)
    rows = [
        [
            name,
            seconds(one.median),
            one.spread,
            times(one.median / found[floor].median),
        ]
        for name, one in found.items()
    ]
    read = sum(path.stat().st_size for path in both)
    tables = [
        Table("Time, and its ratio to reading", ["", "median", "min..max", "to reading"], rows),
        Table("What moves", ["", ""], [["read", megabytes(read)], ["written", megabytes(sizes[-1])]]),
    ]
    ratio = found["diff"].median / found[floor].median
    bars = [Bar("diff / cat base tuned", ratio, 4.0, judged=is_asked(case))]
    parameters = {
        **case.document(),
        "rounds": rounds,
        "inputs on": filesystem_of(base),
        "output on": filesystem_of(out),
    }
    return Result("diff", parameters, tables, bars, documents(found))

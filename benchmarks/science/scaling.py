"""Time and peak memory over the size of the model and over the number of patches.

Each measurement is a process of its own, with a tiny model first; reading the same files with `cat` is measured in
the same rounds. Peak memory is the process's, imports included; the imports alone are measured as well.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import filesystem_of
from benchmarks.measure import Sample, Series, alternate, read_files, run_job
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
from benchmarks.science.makers import number_of, size_of

SIZES = (1, 2, 4)
COUNTS = (1, 2, 4, 8, 16, 32, 64)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, rounds=3)
    parser.add_argument("--sizes", type=_numbers, default=SIZES, help="multiples of --params (1,2,4)")
    parser.add_argument("--counts", type=_numbers, default=COUNTS, help="numbers of patches (1,2,4,8,16,32,64)")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted({int(part) for part in text.split(",")}))


def run(args: argparse.Namespace) -> Result:
    """Measure both ways to grow."""
    case = case_of(args)
    many = 2 * case.weight_bytes + max(args.counts) * case.patch_bytes
    large = max(args.sizes) * (4 * case.weight_bytes + (case.patches + 2) * case.patch_bytes)
    with workplace(args, max(many, large)) as files, output(files) as out:
        imports = alternate({"imports": lambda: run_job({"job": "imports"})}, args.rounds)["imports"]
        sizes = {}
        for number in args.sizes:
            grown = replace(case, params=size_of(number * number_of(case.params)))
            sizes[grown] = measure_size(grown, files, out, args.rounds)
            if number != 1 and not args.keep:
                files.remove_made(grown)
        counts = measure_counts(case, args.counts, files, out, args.rounds)
        places = {"inputs on": filesystem_of(files.work), "output on": filesystem_of(out)}
    parameters = {**case.document(), "rounds": args.rounds, **places}
    return report(case, parameters, imports, sizes, counts)


def job_of(
    job: str, case: Case, files: Files, out: Path, patches: Sequence[PatchFile] = (), tuned: Sequence[Path] = ()
) -> dict[str, Any]:
    """Return a job for a measured process."""
    mask = case.mask
    tiny_base, tiny_tuned, tiny_patches = files.tiny(case)
    return {
        "job": job,
        "base": str(files.base(case)),
        "tuned": [str(folder) for folder in tuned],
        "patches": {patch.sha256: str(patch.path) for patch in patches},
        "mask": {"drop_bottom": mask.drop_bottom, "drop_top": mask.drop_top, "granularity": mask.granularity},
        "alpha": case.alpha,
        "options": {},
        "device": "cpu",
        "out": str(out),
        "tiny": {
            "base": str(tiny_base),
            "tuned": [str(tiny_tuned)],
            "patches": {patch.sha256: str(patch.path) for patch in tiny_patches},
        },
    }


def measure_size(case: Case, files: Files, out: Path, rounds: int) -> dict[str, Series]:
    """Measure one size of model."""
    base, patches, tuned = files.base(case), files.patches(case), files.tuned(case, 1)
    diffed, composed = job_of("diff", case, files, out, tuned=[tuned]), job_of("compose", case, files, out, patches)
    weights, both = weight_files([base]), weight_files([base, tuned])
    paths = [patch.path for patch in patches]
    for job in (diffed, composed):
        run_job({**job, **job["tiny"]})  # compiled, if it was not yet
    read_files([*both, *paths])  # into page cache
    return alternate(
        {
            f"{case.params}: cat base tuned": lambda: read_files(both),
            f"{case.params}: diff": lambda: run_job(diffed),
            f"{case.params}: cat base patches": lambda: read_files([*weights, *paths]),
            f"{case.params}: compose": lambda: run_job(composed),
        },
        rounds,
    )


def measure_counts(case: Case, counts: Sequence[int], files: Files, out: Path, rounds: int) -> dict[str, Series]:
    """Measure composing with more and more patches."""
    patches = files.patches(replace(case, patches=max(counts)))
    read_files([patch.path for patch in patches])
    things: dict[str, Callable[[], Sample]] = {}
    for count in counts:
        some = patches[:count]
        job = job_of("compose", case, files, out, some)
        things[f"{count} patches: cat"] = lambda some=some: read_files([patch.path for patch in some])  # type: ignore[misc]
        things[f"{count} patches: compose"] = lambda job=job: run_job(job)  # type: ignore[misc]
    return alternate(things, rounds)


def report(
    case: Case,
    parameters: dict[str, Any],
    imports: Series,
    sizes: dict[Case, dict[str, Series]],
    counts: dict[str, Series],
) -> Result:
    """Put what was measured into tables."""
    found = {name: one for series in sizes.values() for name, one in series.items()} | counts
    rows = []
    for name, reading in (("diff", "cat base tuned"), ("compose", "cat base patches")):
        first = found[f"{next(iter(sizes)).params}: {name}"]
        for grown in sizes:
            one, read = found[f"{grown.params}: {name}"], found[f"{grown.params}: {reading}"]
            rows.append(
                [
                    f"{name}, {grown.params}",
                    f"{grown.shape.parameters / 1e6:,.0f} M",
                    seconds(one.median),
                    one.spread,
                    times(one.median / first.median),
                    times(one.median / read.median),
                    megabytes(one.peak),
                    times(one.peak / first.peak),
                ]
            )
    rows.append(["imports alone", "", "", "", "", "", megabytes(imports.peak), ""])
    columns = ["", "weights", "median", "min..max", "to first", "to cat of inputs", "peak memory", "to first"]
    tables = [Table(f"Over the size of the model, {case.patches} patches", columns, rows)]
    numbers = sorted({int(name.split()[0]) for name in counts})
    rows = []
    for count in numbers:
        one, read = counts[f"{count} patches: compose"], counts[f"{count} patches: cat"]
        first = counts[f"{numbers[0]} patches: compose"]
        rows.append(
            [
                str(count),
                seconds(one.median),
                one.spread,
                seconds(read.median),
                times(one.median / first.median),
                megabytes(one.peak),
                times(one.peak / first.peak),
            ]
        )
    columns = ["patches", "median", "min..max", "cat of patches", "to first", "peak memory", "to first"]
    tables.append(Table(f"Composing over the number of patches, {case.params}", columns, rows))
    return Result(
        "scaling", parameters, tables, bars_of(case, sizes, found, counts), documents(found | {"imports": imports})
    )


def bars_of(
    case: Case, sizes: dict[Case, dict[str, Series]], found: dict[str, Series], counts: dict[str, Series]
) -> list[Bar]:
    """Return the bars on memory and on many patches."""
    cases, judged = list(sizes), is_asked(case)
    bars = []
    for name in ("diff", "compose"):
        first, last = (found[f"{grown.params}: {name}"] for grown in (cases[0], cases[-1]))
        bars.append(Bar(f"peak memory of {name}, MB", first.peak / 1e6, 700, judged=judged))
        if len(cases) > 1:
            grown = round(cases[-1].shape.parameters / cases[0].shape.parameters)
            text = f"peak memory of {name} at {grown} x the size / at 1 x"
            bars.append(Bar(text, last.peak / first.peak, 1.1, judged=judged and grown == 4))
    if {"8 patches: compose", "64 patches: compose"} <= counts.keys():
        eight, many = counts["8 patches: compose"].median, counts["64 patches: compose"].median
        read = counts["64 patches: cat"].median
        bars.append(
            Bar("64 patches / (1.3 x reading them + 8 patches)", many / (1.3 * read + eight), 1.0, judged=judged)
        )
    return bars

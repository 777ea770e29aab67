"""Ranges of a composed model, computed when they are read, against the same bytes stored.

The stored file is read with pread from memory or page cache into one buffer, by one thread, as a server would before it
sends. Both sides are read in this process, to nowhere. `first byte` opens base, patches and composition anew: nothing
about the masks is known before.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.machine import filesystem_of
from benchmarks.measure import Sample, Series, alternate, timed
from benchmarks.results import Bar, Result, Table, documents, megabytes, seconds, times
from benchmarks.science.cases import Case, Files, add_case, case_of, is_asked, output, workplace
from benchmarks.science.compose import compose_into
from benchmarks.science.jobs import compose_files, open_ranges
from registry.breadcrumbs.composing.ranges import ComposedWeights
from registry.breadcrumbs.formats.checkpoint import open_checkpoint

RANGE = 10**6
"""Bytes of a random range."""

WINDOW = 2**23
"""Bytes of a range where a file is read by ranges in order."""

BLOCK = 2**21
"""Bytes of a stored file that are read at a time."""

STORED, WHOLE, IN_ORDER, COMPOSE = "stored, whole", "ranges, whole", "ranges of 8 MiB in order", "compose, to a file"
STORED_RANDOM, RANDOM, RANDOM_ALONE = "stored, random", "ranges, random", "ranges, random, one thread"

Span = tuple[str, int, int]
"""A range: the file, its first byte, and the byte after its last."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    add_case(parser, rounds=7)
    parser.add_argument("--ranges", type=int, default=100, help="number of random ranges in each round (%(default)s)")


def run(args: argparse.Namespace) -> Result:
    """Measure ranges."""
    case = case_of(args)
    needed = 4 * case.weight_bytes + case.patches * case.patch_bytes
    with workplace(args, needed) as files, output(files) as out:
        return measure(case, files, out, args.rounds, args.ranges)


def measure(case: Case, files: Files, out: Path, rounds: int, count: int) -> Result:
    """Measure ranges of a composition of patches that are made."""
    base, patches = files.base(case), files.patches(case)
    paths = {patch.sha256: patch.path for patch in patches}
    tiny_base, _, tiny_patches = files.tiny(case)
    with open_ranges(tiny_base, {patch.sha256: patch.path for patch in tiny_patches}, case.alpha) as tiny:
        for name, size in tiny.sizes.items():
            _drain(tiny, [(name, 0, size), (name, size // 2, size)])
    stored = Path(tempfile.mkdtemp(dir=out))
    compose_files(base, paths, stored, case.alpha, "cpu", digests=False)
    middle = middle_of_largest(base)
    with open_ranges(base, paths, case.alpha) as weights:
        sizes = weights.sizes
        whole = [(name, 0, size) for name, size in sizes.items()]
        windows = [(name, at, min(size, at + WINDOW)) for name, size in sizes.items() for at in range(0, size, WINDOW)]
        spread = random_spans(sizes, count, case.seed)
        _check(weights, stored, spread)
        found = alternate(
            {
                STORED: partial(read_stored, stored, whole),
                WHOLE: partial(read_ranges, weights, whole),
                IN_ORDER: partial(read_ranges, weights, windows),
                COMPOSE: lambda: compose_into(out, base, patches, case, digests=False),
                STORED_RANDOM: partial(read_stored, stored, spread),
                RANDOM: partial(read_ranges, weights, spread),
                RANDOM_ALONE: partial(read_ranges, weights, spread, 1),
                "opened": lambda: timed(lambda: _open(base, paths, case.alpha)),
                "opened, first byte": lambda: first_byte(base, paths, case.alpha, middle),
                "first byte again": lambda: timed(lambda: _first(weights, middle)),
            },
            rounds,
        )
    parameters = {
        **case.document(),
        "rounds": rounds,
        "inputs on": filesystem_of(base),
        "stored on": filesystem_of(out),
    }
    setup = Table(
        "What is read",
        ["", ""],
        [
            ["the composed files", megabytes(sum(sizes.values()))],
            [f"{len(patches)} patches", megabytes(sum(patch.size for patch in patches))],
            ["random ranges in a round", f"{count} of {megabytes(RANGE)}"],
            ["first byte: the middle of the largest tensor", f"byte {middle[1]:,} of {middle[0]}"],
        ],
    )
    tables = [*report(found, sum(sizes.values()), count), setup]
    return Result("ranges", parameters, tables, bars(found, is_asked(case)), documents(found))


def report(found: Mapping[str, Series], size: int, count: int) -> list[Table]:
    """Return what was found as tables, for files of `size` bytes and `count` random ranges."""
    rows = []
    for against, amount, names in (
        (STORED, size, (STORED, WHOLE, IN_ORDER, COMPOSE)),
        (STORED_RANDOM, count * RANGE, (STORED_RANDOM, RANDOM, RANDOM_ALONE)),
    ):
        for name in names:
            took = found[name].median
            speed = f"{amount / took / 1e6:,.0f}"
            rows.append([name, seconds(took), found[name].spread, speed, times(took / found[against].median)])
    first = [
        [
            name,
            f"{1000 * found[name].median:.1f} ms",
            f"{1000 * found[name].least:.1f}..{1000 * found[name].most:.1f} ms",
        ]
        for name in ("opened", "opened, first byte", "first byte again")
    ]
    first.append(["a random range", f"{1000 * found[RANDOM].median / count:.1f} ms", ""])
    return [
        Table("Throughput", ["", "median", "min..max", "MB/s", "time to stored"], rows),
        Table("Latency", ["", "median", "min..max"], first),
    ]


def bars(found: Mapping[str, Series], judged: bool) -> list[Bar]:
    """Return what is asked of the numbers."""
    compose = found[COMPOSE].median
    return [
        Bar("first byte in the middle of a tensor, s", found["opened, first byte"].median, 1.0, judged=judged),
        Bar("ranges, whole / compose", found[WHOLE].median / compose, 1.0, judged=judged),
        Bar("ranges of 8 MiB in order / compose", found[IN_ORDER].median / compose, 1.3, judged=judged),
    ]


def random_spans(sizes: Mapping[str, int], count: int, seed: int) -> list[Span]:
    """Return ranges anywhere in the largest file."""
    name = max(sizes, key=lambda name: sizes[name])
    places = np.random.default_rng(seed).integers(sizes[name] - RANGE, size=count)
    return [(name, int(at), int(at) + RANGE) for at in places]


def middle_of_largest(base: Path) -> Span:
    """Return the byte in the middle of the largest tensor of a model."""
    with open_checkpoint(base) as checkpoint:
        file, entry = max(
            ((file, entry) for file, header in checkpoint.headers.items() for entry in header.entries.values()),
            key=lambda pair: pair[1].stop - pair[1].start,
        )
    at = (entry.start + entry.stop) // 2
    return file, at, at + 1


def read_ranges(weights: ComposedWeights, spans: Sequence[Span], threads: int | None = None) -> Sample:
    """Measure ranges that are composed."""
    return timed(lambda: _drain(weights, spans, threads))


def read_stored(folder: Path, spans: Sequence[Span]) -> Sample:
    """Measure ranges of files that are there."""
    opened = {name: os.open(folder / name, os.O_RDONLY) for name, _, _ in spans}
    buffer = memoryview(bytearray(BLOCK))
    try:
        began = time.perf_counter()
        for name, start, stop in spans:
            for at in range(start, stop, BLOCK):
                os.preadv(opened[name], [buffer[: min(BLOCK, stop - at)]], at)
        return Sample(time.perf_counter() - began)
    finally:
        for file in opened.values():
            os.close(file)


def first_byte(base: Path, patches: Mapping[str, Path], alpha: str, span: Span) -> Sample:
    """Measure the time from opening everything to the first byte of a range that goes on to the end of its file."""
    began = time.perf_counter()
    with open_ranges(base, patches, alpha) as weights:
        _first(weights, span)
        return Sample(time.perf_counter() - began)


def _open(base: Path, patches: Mapping[str, Path], alpha: str) -> None:
    with open_ranges(base, patches, alpha):
        pass


def _first(weights: ComposedWeights, span: Span) -> None:
    name, start, _ = span
    pieces = weights.read(name, start)
    next(pieces)
    pieces.close()


def _drain(weights: ComposedWeights, spans: Sequence[Span], threads: int | None = None) -> None:
    for name, start, stop in spans:
        for _ in weights.read(name, start, stop, threads):
            pass


def _check(weights: ComposedWeights, stored: Path, spans: Sequence[Span]) -> None:
    """Check that ranges are those of the stored files."""
    for name, start, stop in spans:
        with (stored / name).open("rb") as file:
            file.seek(start)
            if b"".join(map(bytes, weights.read(name, start, stop))) != file.read(stop - start):
                raise SystemExit(f"Bytes {start} to {stop} of {name} are not those of the stored file.")

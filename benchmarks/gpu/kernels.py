"""The kernels of a GPU by themselves, against a copy of as many bytes on the device.

    CUDA, Triton      all patches on one large chunk; values before each block are counted already
    counting          how many values come before each block, which reads every mask
    selection         finding what fine-tuning changed, and the mask: base and tuned read, mask and values written
    conflicts         all pairs of the patches: masks and values read; the host's processors measure the same

Nothing is measured where there is no GPU.
"""

import argparse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.gpu import works
from benchmarks.gpu.works import Made, Work, make_chunk, measure_work
from benchmarks.measure import Series, alternate, timed
from benchmarks.results import Bar, Result, Table, documents, megabytes
from benchmarks.science.makers import CODES
from registry.breadcrumbs.comparing.engines import Measured, Numbers, zeros
from registry.breadcrumbs.kernels import conflicts as cpu
from registry.breadcrumbs.kernels.constants import PAD
from registry.breadcrumbs.kernels.cuda import launching
from registry.files.threads import processors

WEIGHTS = 2**26
"""Weights of a chunk, whose bytes are many times what a cache holds."""

COUNTS, DENSITIES = (1, 8, 64), (0.02, 0.14, 0.5)
"""Patches of a chunk, and what part of the weights each keeps."""

SETS = 2
"""Sets of inputs that take turns."""

PATCHES, DENSITY = 8, 0.14
"""Of what is judged, and of conflicts and selection."""

LEAST = {8: 0.7, 64: 0.6}
"""What part of the speed of a copy composing must reach, by the number of patches."""


@dataclass(frozen=True)
class Moving:
    """Bytes that are moved on the device at least, and the seconds that it takes."""

    moved: int
    series: Series

    @property
    def speed(self) -> float:
        """Bytes a second."""
        return self.moved / self.series.median


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--dtype", choices=["bf16", "f16", "f32"], default="bf16", help="of weights and values (bf16)")
    parser.add_argument("--weights", type=int, default=WEIGHTS, help="of a chunk; a multiple of 1024 (2^26)")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="patches of a chunk (1 8 64)")
    parser.add_argument("--densities", type=float, nargs="+", default=DENSITIES, help="of each patch (0.02 0.14 0.5)")
    parser.add_argument("--method", choices=["sum", "ties", "mean"], default="sum", help="how patches combine (sum)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured (5)")


def run(args: argparse.Namespace) -> Result | None:
    """Measure the kernels of a GPU, where there is one."""
    device = torch.device("cuda")
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was measured.")
        return None
    if not launching.can_launch(device):
        print(
            "The kernels cannot be compiled for this GPU, so nothing was measured: it must be of Ampere or later, and"
        )
        print("NVRTC must know it: pip install -U 'breadcrumb-registry[cuda]'.")
        return None
    return measure(args, device)


def measure(args: argparse.Namespace, device: torch.device, by_triton: bool = True) -> Result:
    """Measure on a device; Triton's kernel is left out where it is not asked for, or the method is not `sum`."""
    found: dict[str, Moving] = {}
    rows, bars = [], []

    def keep(what: str, parts: Mapping[str, Moving]) -> None:
        for name, one in parts.items():
            found[f"{what}: {name}"] = one
            rows.append(_row(f"{what}: {name}", one, parts["copy"]))

    def chunks_of(count: int, density: float) -> list[Made]:
        return [make_chunk(args.weights, count, density, args.dtype, "0.3", seed, device) for seed in range(SETS)]

    large = args.weights >= WEIGHTS
    for count in args.counts:
        for density in args.densities:
            chunks = chunks_of(count, density)
            todo = {"CUDA": works.composing(chunks, args.method), "counting": works.counting(chunks)}
            if by_triton and args.method == "sum":
                todo["Triton"] = works.composing_by_triton(chunks)
            parts = measure_works(todo, args.rounds, device)
            keep(f"{count} patches of {density:g}", parts)
            if count in LEAST:
                text = f"kernel / device copy, {count} patches of {density:g}"
                part, judged = parts["CUDA"].speed / parts["copy"].speed, large and args.method == "sum"
                bars.append(Bar(text, part, LEAST[count], least=True, judged=judged and density == DENSITY))
    selection = works.selecting(args.weights, args.dtype, DENSITY, range(SETS), device)
    parts = measure_works({"selection": selection}, args.rounds, device)
    keep(f"kept {DENSITY:g}", parts)
    part = parts["selection"].speed / parts["copy"].speed
    bars.append(Bar("selection / device copy", part, 0.3, least=True, judged=large))
    parts = compare_with_host(chunks_of(PATCHES, DENSITY), args.rounds, device)
    keep(f"{PATCHES} patches, all pairs", parts)
    part = parts["conflicts"].series.median / parts["host"].series.median
    bars.append(Bar("conflicts on the device / on the host", part, 1.0, judged=large))
    columns = ["", "moved", "median", "", "of the copy"]
    parameters = {
        "dtype": args.dtype,
        "method": args.method,
        "weights": args.weights,
        "rounds": args.rounds,
        "sets of inputs": SETS,
        "processors": processors(),
    }
    numbers = {name: one.speed for name, one in found.items()}
    series = documents({name: one.series for name, one in found.items()})
    return Result("kernels", parameters, [Table("On the device", columns, rows)], bars, {**series, "numbers": numbers})


def measure_works(todo: Mapping[str, Work], rounds: int, device: torch.device) -> dict[str, Moving]:
    """Measure works in turn, and a copy of as many bytes as the first one moves."""
    first = next(iter(todo.values()))
    every = {"copy": works.copying(first.moved, device), **todo}
    found = alternate({name: lambda work=work: measure_work(work, device) for name, work in every.items()}, rounds)
    return {name: Moving(every[name].moved, one) for name, one in found.items()}


def compare_with_host(chunks: Sequence[Made], rounds: int, device: torch.device) -> dict[str, Moving]:
    """Measure conflicts on the device and on the host's processors, and a copy on the device."""
    work = works.comparing(chunks)
    copy, host = works.copying(work.moved, device), Host(chunks[0])
    found = alternate(
        {
            "copy": lambda: measure_work(copy, device),
            "conflicts": lambda: measure_work(work, device),
            "host": lambda: timed(host.measure),
        },
        rounds,
    )
    return {name: Moving(work.moved, one) for name, one in found.items()}


PART = 2**20
"""Elements that a processor of the host measures at a time, as it does in a tensor."""


class Host:
    """Measures a chunk's conflicts on the host, a part in each thread."""

    def __init__(self, made: Made) -> None:
        self._arena = np.concatenate([made.arena.cpu().numpy(), np.zeros(PAD, np.uint8)])
        self._size, table = made.size, made.table.cpu().numpy()
        self._pairs = np.array([(a, b) for a in range(len(table)) for b in range(a + 1, len(table))]).reshape(-1, 2)
        width = 4 if made.dtype == CODES["f32"] else 2
        self._parts = []
        for first in range(0, made.size, PART):
            part = table.copy()
            stop = min(first + PART, made.size)
            for row in part:
                before, count = (
                    int(np.bitwise_count(self._arena[row[0] + low // 8 : row[0] + high // 8]).sum())
                    for low, high in ((0, first), (first, stop))
                )
                row[0], row[1], row[4] = row[0] + first // 8, row[1] + width * before, count
            self._parts.append((stop - first, part))
        self._measure(self._parts[0])  # numba compiles

    def measure(self) -> list[Measured]:
        """Measure every part."""
        with ThreadPoolExecutor(processors()) as pool:
            return list(pool.map(self._measure, self._parts))

    def _measure(self, part: tuple[int, Numbers]) -> Measured:
        size, table = part
        found = zeros(len(table), len(self._pairs))
        out = found.own, found.census, found.counts, found.sums
        cpu.measure_chunk(self._arena, size, 0, table, np.arange(len(table)), self._pairs, *out)
        return found


def _row(name: str, one: Moving, copy: Moving) -> list[str]:
    return [
        name,
        megabytes(one.moved),
        f"{1e3 * one.series.median:.3f} ms",
        f"{one.speed / 1e9:.0f} GB/s",
        f"{one.speed / copy.speed:.0%}",
    ]

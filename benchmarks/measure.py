"""Measure things in turn, so that what disturbs the machine disturbs all of them, and compare medians."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from registry.files.threads import processors

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = Path(__file__).resolve().parent / "launch.py"
COPIED = 2**27
"""Bytes that each thread copies at a time to find the bandwidth of memory."""


@dataclass(frozen=True)
class Sample:
    """One measurement.

    Args:
        seconds: What is compared.
        wall: Of the whole process, where it is one.
        peak: Most bytes that the process held, files mapped into it included.
        anonymous: Most bytes that it was seen with, mapped files not included.
        phases: Seconds in each kind of work.
    """

    seconds: float
    wall: float | None = None
    peak: int | None = None
    anonymous: int | None = None
    phases: Mapping[str, float] = field(default_factory=dict)

    def document(self) -> dict[str, object]:
        """Return it for a result, without what was not measured."""
        found = {
            "seconds": round(self.seconds, 6),
            "wall": None if self.wall is None else round(self.wall, 6),
            "peak": self.peak,
            "anonymous": self.anonymous,
            "phases": {name: round(seconds, 6) for name, seconds in self.phases.items()},
        }
        return {key: value for key, value in found.items() if value not in (None, {})}


@dataclass(frozen=True)
class Series:
    """What was measured of one thing, in order."""

    samples: Sequence[Sample]

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(sample.seconds for sample in self.samples)

    @property
    def least(self) -> float:
        """Least of the seconds."""
        return min(sample.seconds for sample in self.samples)

    @property
    def most(self) -> float:
        """Most of the seconds."""
        return max(sample.seconds for sample in self.samples)

    @property
    def wall(self) -> float:
        """Median of the whole processes."""
        return statistics.median(sample.wall or sample.seconds for sample in self.samples)

    @property
    def wall_spread(self) -> str:
        """Least and most of the whole processes, written out."""
        walls = [sample.wall or sample.seconds for sample in self.samples]
        return f"{min(walls):.3f}..{max(walls):.3f} s"

    @property
    def spread(self) -> str:
        """Least and most of the seconds, written out."""
        return f"{self.least:.3f}..{self.most:.3f} s"

    @property
    def peak(self) -> int:
        """Median of the peaks of memory, in bytes."""
        return int(statistics.median(sample.peak or 0 for sample in self.samples))

    @property
    def anonymous(self) -> int:
        """Median of the peaks of anonymous memory, in bytes."""
        return int(statistics.median(sample.anonymous or 0 for sample in self.samples))

    def phases(self) -> dict[str, float]:
        """Return the median of each phase."""
        names = dict.fromkeys(name for sample in self.samples for name in sample.phases)
        return {name: statistics.median(sample.phases.get(name, 0.0) for sample in self.samples) for name in names}

    def document(self) -> list[dict[str, object]]:
        """Return it for a result."""
        return [sample.document() for sample in self.samples]


def alternate(things: Mapping[str, Callable[[], Sample]], rounds: int) -> dict[str, Series]:
    """Measure each thing once in every round; the rounds begin with each of them in turn."""
    names = list(things)
    found: dict[str, list[Sample]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            sample = things[name]()
            found[name].append(sample)
            print(f"  round {number + 1} of {rounds}: {name} {sample.seconds:.3f} s", file=sys.stderr, flush=True)
    return {name: Series(samples) for name, samples in found.items()}


def timed(call: Callable[[], Any]) -> Sample:
    """Measure a call."""
    began = time.perf_counter()
    call()
    return Sample(time.perf_counter() - began)


def run_process(command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Sample:
    """Measure a whole process; what it prints on stdout goes nowhere."""
    return _run(command, env)[0]


def run_job(job: Mapping[str, object]) -> Sample:
    """Measure what a fresh process does after its imports; science/jobs.py has the jobs."""
    whole, printed = _run([sys.executable, "-m", "benchmarks.science.jobs", json.dumps(job)], None)
    said = json.loads(printed)
    return Sample(said["seconds"], whole.wall, whole.peak, whole.anonymous, said["phases"])


def _run(command: Sequence[str | Path], env: Mapping[str, str] | None) -> tuple[Sample, bytes]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as report, tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", LAUNCH, str(writing), *command],
                stdout=subprocess.PIPE,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                pass_fds=[writing],
                env=None if env is None else dict(env),
                cwd=ROOT,
            )
        finally:
            os.close(writing)
        if done.returncode:
            errors.seek(0)
            told = errors.read().decode(errors="replace")[-4000:]
            raise SystemExit(f"{told}\n{Path(command[0]).name} ended with {done.returncode}.")
        took = json.loads(report.read())
    return Sample(took["wall"], took["wall"], took["peak"], took["anonymous"]), done.stdout


def read_files(paths: Sequence[Path]) -> Sample:
    """Measure `cat` of files into nowhere."""
    return _run(["sh", "-c", 'exec cat "$@" >/dev/null', "sh", *paths], None)[0]


def copy_files(paths: Sequence[Path], folder: Path) -> Sample:
    """Measure `cp` of files into a folder, and remove the copies."""
    sample = _run(["cp", *paths, folder], None)[0]
    for path in paths:
        (folder / path.name).unlink()
    return sample


class Bandwidth:
    """Finds how fast the memory is read and written at once, with as many threads as there are processors."""

    def __init__(self) -> None:
        self.threads = processors()
        self._from = [np.ones(COPIED // 8) for _ in range(self.threads)]
        self._to = [np.ones(COPIED // 8) for _ in range(self.threads)]

    def bytes_moved(self) -> int:
        """Return how many bytes one measurement reads and writes."""
        return 2 * COPIED * self.threads

    def measure(self) -> Sample:
        """Measure one copy."""
        barrier = threading.Barrier(self.threads + 1)

        def copy(number: int) -> None:
            barrier.wait()
            np.copyto(self._to[number], self._from[number])

        with ThreadPoolExecutor(self.threads) as pool:
            futures = [pool.submit(copy, number) for number in range(self.threads)]
            barrier.wait()
            began = time.perf_counter()
            for future in futures:
                future.result()
            return Sample(time.perf_counter() - began)

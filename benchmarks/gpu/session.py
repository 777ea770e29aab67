"""`python -m benchmarks.gpu.session`: all that is to be measured on a GPU, what matters most first, in bounded time.

    1 bits            every kernel, engine and method against the CPU's bits
    2 kernels, ...    composing, selection and conflicts by themselves, against a copy
    3 live            a model of 1 B that switches
    4 gpu             from files to files
    5 diff, conflicts from files
    6 memcheck, ...   compute-sanitizer, where it is installed

Each is a process of its own. What it prints goes to <out>/<name>.log, its numbers to <out>/results, and how it ended to
<out>/session.json as soon as it has. After a stop the same command goes on with what has not ended well.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import describe_machine

ROOT = Path(__file__).resolve().parents[2]
GRACE = 5.0  # seconds for a process to end after SIGTERM

TESTS = (
    "tests/breadcrumbs/kernels",
    "tests/breadcrumbs/composing/test_on_gpu.py",
    "tests/breadcrumbs/composing/test_direct.py",
    "tests/client/live/test_gpu.py",
    "tests/benchmarks/test_gpu.py",
)
FEW_TESTS = ("tests/benchmarks/test_gpu.py",)


@dataclass(frozen=True)
class Step:
    """A process to run.

    Args:
        name: What its files are called.
        command: What it runs.
        seconds: How long it may take.
    """

    name: str
    command: Sequence[str]
    seconds: int


@dataclass(frozen=True)
class Ended:
    """How a step ended: `done`, `failed`, `out of time`, or `stopped` by whoever runs the session."""

    how: str
    seconds: float


def plan(out: Path, *, small: bool) -> list[Step]:
    """Return the steps.

    Args:
        out: Where results go.
        small: Whether to try out the session itself: tiny models and few tests.
    """
    size = ["--params", "1M", "--patches", "2", "--rounds", "1"] if small else ["--params", "1B"]
    few = ["--weights", str(2**16), "--counts", "1", "--densities", "0.14", "--rounds", "1"]
    kernels = few if small else []
    one = few if small else ["--counts", "8", "--densities", "0.14"]
    kept = ["--keep", "--work", str(out / "work")]

    def bench(name: str, *options: str, results: str = "results") -> list[str]:
        return [sys.executable, "-m", "benchmarks", name, *options, "--results", str(out / results)]

    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    steps = [
        Step("bits", [*tests, "-m", "slow or not slow", *(FEW_TESTS if small else TESTS)], 420),
        Step("kernels", bench("kernels", *kernels), 240),
        Step("kernels-ties", bench("kernels", *one, "--method", "ties", results="results/ties"), 60),
        Step("kernels-mean", bench("kernels", *one, "--method", "mean", results="results/mean"), 60),
        Step("live", bench("live", *size, *kept), 240),
        Step("gpu", bench("gpu", *size, *kept), 240),
        Step("diff", bench("diff", *size, *kept), 180),
        Step("conflicts", bench("conflicts", *size, *kept), 120),
    ]
    sanitizer = shutil.which("compute-sanitizer")
    checked = bench("kernels", *few, results="results/checked")
    for tool in ("memcheck", "racecheck", "synccheck") if sanitizer else ():
        steps.append(Step(tool, [str(sanitizer), "--tool", tool, "--error-exitcode", "1", *checked], 120))
    return steps


def run_step(step: Step, out: Path, seconds: float) -> Ended:
    """Run a step, and end it and what it started when its time is over, or this process is told to stop."""
    began = time.monotonic()
    with (out / f"{step.name}.log").open("wb") as log:
        log.write((" ".join(step.command) + "\n\n").encode())
        log.flush()
        process = subprocess.Popen(step.command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(seconds)
            how = "done" if process.returncode == 0 else "failed"
        except subprocess.TimeoutExpired:
            how = "out of time"
        except KeyboardInterrupt:
            how = "stopped"
        finally:
            _end(process)
    return Ended(how, round(time.monotonic() - began, 1))


def _end(process: "subprocess.Popen[bytes]") -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, sent)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                continue


def read_ended(out: Path) -> dict[str, Ended]:
    """Return how the steps of an earlier run ended."""
    file = out / "session.json"
    if not file.exists():
        return {}
    return {name: Ended(**one) for name, one in json.loads(file.read_text("utf-8"))["steps"].items()}


def write_ended(out: Path, ended: dict[str, Ended]) -> None:
    """Write how steps ended, whole or not at all."""
    document = {"machine": describe_machine(), "steps": {name: asdict(one) for name, one in ended.items()}}
    file = out / "session.tmp"
    file.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    file.replace(out / "session.json")


def run(out: Path, minutes: float, *, small: bool = False) -> dict[str, Ended]:
    """Run what has not ended well yet, until the time is over; return how all steps ended."""
    out.mkdir(parents=True, exist_ok=True)
    over, ended = time.monotonic() + 60 * minutes, read_ended(out)
    for step in plan(out, small=small):
        if step.name in ended and ended[step.name].how == "done":
            continue
        left = over - time.monotonic()
        if left < 1:
            break
        print(f"{step.name} ...", end=" ", flush=True)
        ended[step.name] = run_step(step, out, min(left, step.seconds))
        write_ended(out, ended)
        print(f"{ended[step.name].how} after {ended[step.name].seconds:g} s", flush=True)
        if ended[step.name].how == "stopped":
            break
    return ended


def main(arguments: Sequence[str]) -> int:
    """Run the command line; 0 if every step ended well."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.session",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-session"), help="folder of results (gpu-session)")
    parser.add_argument("--minutes", type=float, default=25, help="when to stop (25)")
    parser.add_argument("--small", action="store_true", help="try out the session itself: tiny models, few tests")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ended = run(args.out.resolve(), args.minutes, small=args.small)
    missing = [
        step.name for step in plan(args.out, small=args.small) if ended.get(step.name, Ended("", 0)).how != "done"
    ]
    if missing:
        print(f"Not done: {', '.join(missing)}. The same command goes on with these; see {args.out}/*.log.")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

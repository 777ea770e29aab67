"""`python -m benchmarks.quality`: how well composed models do, on real data, from data to report.

    train       one base and its fine-tuned models for every world, as Hugging Face folders
    contribute  push a patch of each through a registry that runs on this machine
    experiments what is composed, at which settings, and how it scores
    report      results.json, README.md and figures/

What is done already is not done again: run it once more after an interruption. Worlds run side by side, one for each
processor, with one thread each.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.quality import plan as plans
from benchmarks.quality import report
from benchmarks.quality.contributions import Login
from benchmarks.quality.running import compare_all, read_world, run_all
from benchmarks.results import HERE
from client.demo.server import start

FOLDER = HERE / "quality"
WORK = HERE.parent / "build" / "quality"
CONTRIBUTORS = ("quality", "ada", "ben", "chloe")


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--quick", action="store_true", help="a little of everything, in under three minutes")
    parser.add_argument("--work", type=Path, help="where models are kept (build/quality, or build/quality-quick)")
    parser.add_argument("--output", type=Path, help="where the results go (benchmarks/quality; quick: the work folder)")
    parser.add_argument("--report", action="store_true", help="only write the report of the results again")
    args = parser.parse_args(arguments)
    work = args.work or (WORK.with_name("quality-quick") if args.quick else WORK)
    output = args.output or (work if args.quick else FOLDER)
    if not args.report:
        measure(plans.quick() if args.quick else plans.FULL, args.quick, work.absolute(), output)
    report.write(output)


def measure(plan: plans.Plan, quick: bool, work: Path, output: Path) -> None:
    """Run all worlds, and write what they found."""
    work.mkdir(parents=True, exist_ok=True)
    begun = work / "plan.json"
    text = json.dumps(plans.describe(plan))
    if begun.exists() and json.loads(begun.read_text("utf-8")) != json.loads(text):
        sys.exit(f"{work} holds models of another plan; remove it, or name another folder with --work.")
    begun.write_text(text, "utf-8")
    began = time.monotonic()
    room = Path(tempfile.mkdtemp(dir=work, prefix="registry-"))
    try:
        with start(room / "data") as registry:
            tokens = registry.users(CONTRIBUTORS).result()
            run_all(plan, work, Login(registry.url, [tokens[name] for name in CONTRIBUTORS]))
        if not quick:
            compare_all(plan, work)
    finally:
        shutil.rmtree(room, ignore_errors=True)
        hours = spent(work / "hours.json", time.monotonic() - began)
    result = {
        "quick": quick,
        "machine": describe_machine() | report.versions(),
        "hours": hours,
        "plan": plans.describe(plan),
        "worlds": [read_world(kind, seed, work) for kind in plan.kinds for seed in range(kind.worlds)],
    }
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(result), separators=(",", ":"), ensure_ascii=False)
    (output / "results.json").write_text(text.replace('{"kind"', '\n{"kind"') + "\n", "utf-8")


def rounded(found: Any) -> Any:
    """Return what was found with six digits of every number, which is more than is meant."""
    if isinstance(found, dict):
        return {name: rounded(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [rounded(value) for value in found]
    return float(f"{found:.6g}") if isinstance(found, float) else found


def spent(path: Path, seconds: float) -> float:
    """Add this run's seconds to those of the runs before it that were interrupted; return all as hours."""
    before = json.loads(path.read_text("utf-8")) if path.exists() else 0.0
    hours: float = before + seconds / 3600
    path.write_text(json.dumps(hours), "utf-8")
    return hours


if __name__ == "__main__":
    main(sys.argv[1:])

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
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from benchmarks.quality import plans, report
from benchmarks.quality.experiments.contributions import Login
from benchmarks.quality.experiments.plan import Plan
from benchmarks.quality.minilm.experiment import step
from benchmarks.quality.minilm.kind import BREADCRUMBS
from benchmarks.quality.minilm.sources import Unavailable
from benchmarks.quality.minilm.sources import describe as describe_sources
from benchmarks.quality.running import compare_all, read_world, run_all
from benchmarks.quality.worlds.kinds import is_real
from benchmarks.results import HERE
from client.demo.server import start

FOLDER = HERE / "quality"
WORK = HERE.parent / "build" / "quality"
DONE = {False: "held-out", True: step(BREADCRUMBS)}
"""The step from which on a world can be reported, on the real base or not."""

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
    parser.add_argument(
        "--kinds",
        nargs="+",
        metavar="KIND",
        help="only these: language, vision, restoration, minilm, or minilm-1e-4 and the like",
    )
    parser.add_argument("--work", type=Path, help="where models are kept (build/quality, or build/quality-quick)")
    parser.add_argument("--output", type=Path, help="where the results go (benchmarks/quality; quick: the work folder)")
    parser.add_argument("--report", action="store_true", help="only write the report of the results again")
    parser.add_argument("--collect", action="store_true", help="report what an unfinished run has found so far")
    args = parser.parse_args(arguments)
    work = args.work or (WORK.with_name("quality-quick") if args.quick else WORK)
    output = args.output or (work if args.quick else FOLDER)
    plan = only(plans.quick() if args.quick else plans.FULL, args.kinds)
    try:
        if not args.report and not args.collect:
            measure(plan, args.quick, work.absolute())
        if not args.report:
            collect(plan, args.quick, work.absolute(), output)
    except Unavailable as error:
        sys.exit(str(error))
    report.write(output)


def only(plan: Plan, names: list[str] | None) -> Plan:
    """Return a plan with some of its kinds; `minilm` is the kinds of all learning rates."""
    if names is None:
        return plan
    known = {name for kind in plan.kinds for name in (kind.name, kind.name.partition("-")[0])}
    if strangers := set(names) - known:
        sys.exit(f"{', '.join(sorted(strangers))} is not a kind; choose among {', '.join(sorted(known))}.")
    kinds = [kind for kind in plan.kinds if {kind.name, kind.name.partition("-")[0]} & set(names)]
    return replace(plan, kinds=kinds)


def measure(plan: Plan, quick: bool, work: Path) -> None:
    """Run all worlds."""
    work.mkdir(parents=True, exist_ok=True)
    begin(plan, work)
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
        spent(work / "hours.json", time.monotonic() - began)


def begin(plan: Plan, work: Path) -> None:
    """Note the plan in the folder, beside that of other kinds; leave if there are models of another one."""
    path = work / "plan.json"
    begun = json.loads(path.read_text("utf-8")) if path.exists() else None
    new = json.loads(json.dumps(plans.describe(plan)))
    kinds = {kind["name"]: kind for kind in new.pop("kinds")}
    old_kinds = begun.get("kinds", {}) if begun else {}
    known = begun is None or begun.get("plan") == new
    if not known or any(old_kinds.get(name, kind) != kind for name, kind in kinds.items()):
        sys.exit(f"{work} holds models of another plan; remove it, or name another folder with --work.")
    path.write_text(json.dumps({"plan": new, "kinds": old_kinds | kinds}), "utf-8")


def collect(plan: Plan, quick: bool, work: Path, output: Path) -> None:
    """Write what was found; what is there of kinds that are not in the plan stays."""
    described = plans.describe(plan)
    worlds = [read_world(kind, seed, work) for kind in plan.kinds for seed in range(kind.worlds)]
    worlds = [world for world in worlds if DONE[is_real(world["kind"])] in world]
    path = output / "results.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else {"worlds": [], "plan": {"kinds": []}}
    now, found = {kind.name for kind in plan.kinds}, {world["kind"] for world in worlds}
    others = [kind for kind in before["plan"]["kinds"] if kind["name"] not in now]
    described["kinds"] = [*others, *(kind for kind in described["kinds"] if kind["name"] in found)]
    result = {
        "quick": quick,
        "machine": describe_machine() | report.versions(),
        "hours": spent(work / "hours.json", 0),
        "plan": described,
        "sources": describe_sources() if any(map(is_real, found)) else before.get("sources", []),
        "worlds": [*(world for world in before["worlds"] if world["kind"] not in now), *worlds],
    }
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rounded(result), separators=(",", ":"), ensure_ascii=False)
    path.write_text(text.replace('{"kind"', '\n{"kind"') + "\n", "utf-8")


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

"""Worlds, run side by side: every step of one, in order, each kept as soon as it is done."""

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.experiments import ablation, counts, held_out, pairs, peers, sizes
from benchmarks.quality.experiments.bench import DEFAULT, Bench
from benchmarks.quality.experiments.contributions import Login, Model
from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.experiments.plan import Plan
from benchmarks.quality.minilm import experiment
from benchmarks.quality.minilm.kind import MiniLM
from benchmarks.quality.worlds.kinds import Kind
from benchmarks.quality.worlds.worlds import train
from benchmarks.science import mergekit
from registry.files.threads import processors


def run_all(plan: Plan, work: Path, login: Login) -> None:
    """Run worlds side by side."""
    for kind in plan.kinds:
        kind.prepare()
    # A process of its own for each world: what one allocates does not stay, and torch starts with one thread.
    with ProcessPoolExecutor(processors(), get_context("spawn"), max_tasks_per_child=1) as pool:
        jobs = [(kind, seed) for kind in plan.kinds for seed in range(kind.worlds)]
        futures = [pool.submit(run_world, plan, kind, seed, work, login) for kind, seed in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_world(plan: Plan, kind: Kind, seed: int, work: Path, login: Login) -> None:
    """Run one world: every step whose result is not there."""
    quieten()
    steps = Steps(work, kind, seed)
    steps.run("training", lambda: train(kind, seed, steps.folder))
    bench = Bench(kind, seed, steps.folder)
    model = Model(bench, login)
    try:
        steps.run("scores", lambda: {"tuned": bench.tuned, "untuned": bench.untuned, "weights": bench.size})
        steps.run("patches", model.fetch)
        if isinstance(kind, MiniLM):
            experiment.run(bench, model, kind, steps)
        else:
            run_experiments(bench, model, plan, steps)
    finally:
        model.close()


def run_experiments(bench: Bench, model: Model, plan: Plan, steps: "Steps") -> None:
    """Run the steps of a world whose base is trained here."""
    first = steps.run("counts", lambda: counts.run(bench, plan))[0]
    steps.run(
        "compositions",
        lambda: [
            model.compose(setting, bench.order(0)[:count])
            for setting in (DEFAULT, Setting(**first["once"]["breadcrumbs"]))
            for count in bench.kind.counts
        ],
    )
    steps.run("ablation", lambda: ablation.run(bench, plan))
    steps.run("sizes", lambda: sizes.run(bench, plan))
    steps.run("pairs", lambda: pairs.run(bench, [DEFAULT.alpha, "1"], model.conflicts()))
    steps.run("held-out", lambda: held_out.run(bench, plan, first["again"]))


def compare_all(plan: Plan, work: Path) -> None:
    """Compare the first world of every kind that is trained here with mergekit's merges."""
    kinds = [kind for kind in plan.kinds if not isinstance(kind, MiniLM)]
    if not kinds:
        return
    quieten()
    command = mergekit.install(mergekit.VENV)
    for kind in kinds:
        steps = Steps(work, kind, 0)
        steps.run("peers", lambda steps=steps, kind=kind: peers.run(Bench(kind, 0, steps.folder), command))


def quieten() -> None:
    """Keep to one thread, and show no bars."""
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()


def processor_seconds() -> float:
    """Return what this process and the programs that it waited for have computed so far."""
    return sum(os.times()[:4])


class Steps:
    """Runs a world's steps and keeps what they return; one whose result is there is not run again."""

    def __init__(self, work: Path, kind: Kind, seed: int) -> None:
        self.name, self.folder = f"{kind.name} {seed}", work / f"{kind.name}-{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)

    def run(self, step: str, work: Callable[[], Any]) -> Any:
        """Return what a step found, now or earlier."""
        path = self.folder / f"{step}.json"
        if not path.exists():
            began = processor_seconds()
            document = {"found": work(), "seconds": processor_seconds() - began}
            partial = path.with_suffix(".part")
            partial.write_text(json.dumps(document), "utf-8")
            partial.rename(path)
            print(f"{self.name}: {step}, {document['seconds']:.0f} s", file=sys.stderr, flush=True)
        return json.loads(path.read_text("utf-8"))["found"]


def read_world(kind: Kind, seed: int, work: Path) -> dict[str, Any]:
    """Return all that one world found."""
    files = sorted(Steps(work, kind, seed).folder.glob("*.json"))
    steps = {file.stem: json.loads(file.read_text("utf-8")) for file in files}
    found = {name: document["found"] for name, document in steps.items()}
    seconds = {name: document["seconds"] for name, document in steps.items()}
    return {"kind": kind.name, "seed": seed, **found, "seconds": seconds}

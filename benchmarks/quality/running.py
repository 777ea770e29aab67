"""Worlds, run side by side: every step of one, in order, each kept as soon as it is done."""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.quality import plan as plans
from registry.breadcrumbs.checkpoint import processors


def run_all(plan: plans.Plan, quick: bool, work: Path, login: tuple[str, tuple[str, ...]]) -> None:
    """Run worlds side by side."""
    jobs = [(place, seed) for place, kind in enumerate(plan.kinds) for seed in range(kind.worlds)]
    # A process of its own for each world: what one allocates does not stay, and torch starts with one thread.
    with ProcessPoolExecutor(processors(), get_context("spawn"), max_tasks_per_child=1) as pool:
        futures = [pool.submit(run_world, quick, place, seed, work, login) for place, seed in jobs]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_world(quick: bool, place: int, seed: int, work: Path, login: tuple[str, tuple[str, ...]]) -> None:
    """Run one world: every step whose result is not there."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers.utils import logging

    from benchmarks.quality import ablation, counts, held_out, pairs, sizes
    from benchmarks.quality.bench import DEFAULT, Bench
    from benchmarks.quality.contributions import Login, Model
    from benchmarks.quality.merging import Setting
    from benchmarks.quality.worlds import train

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    plan = plans.quick() if quick else plans.FULL
    kind = plan.kinds[place]
    folder = work / f"{kind.name}-{seed}"
    folder.mkdir(exist_ok=True)
    steps = Steps(folder, f"{kind.name} {seed}")
    steps.run("training", lambda: train(kind, seed, folder))
    bench = Bench(kind, seed, folder)
    model = Model(bench, Login(*login))
    try:
        steps.run("scores", lambda: {"tuned": bench.tuned, "untuned": bench.untuned, "weights": bench.size})
        steps.run("patches", model.fetch)
        found = steps.run("counts", lambda: counts.run(bench, plan))
        once = found[0]["once"]
        steps.run(
            "compositions",
            lambda: [
                model.compose(setting, bench.order(0)[:count])
                for setting in (DEFAULT, Setting(**once["breadcrumbs"]))
                for count in kind.counts
            ],
        )
        steps.run("ablation", lambda: ablation.run(bench, plan))
        steps.run("sizes", lambda: sizes.run(bench, plan))
        steps.run("pairs", lambda: pairs.run(bench, [DEFAULT.alpha, "1"], model.conflicts()))
        steps.run("held-out", lambda: held_out.run(bench, plan, once))
    finally:
        model.close()


class Steps:
    """Runs steps and keeps what they return; one whose result is there is not run again."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def run(self, step: str, work: Callable[[], Any]) -> Any:
        """Return what a step found, now or earlier."""
        path = self.folder / f"{step}.json"
        if not path.exists():
            began = time.monotonic()
            document = {"found": work(), "seconds": time.monotonic() - began}
            partial = path.with_suffix(".part")
            partial.write_text(json.dumps(document), "utf-8")
            partial.rename(path)
            print(f"{self.name}: {step}, {document['seconds']:.0f} s", file=sys.stderr, flush=True)
        return json.loads(path.read_text("utf-8"))["found"]


def read_world(kind: str, seed: int, work: Path) -> dict[str, Any]:
    """Return all that one world found."""
    steps = {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted((work / f"{kind}-{seed}").glob("*.json"))
    }
    found = {name: document["found"] for name, document in steps.items()}
    return {"kind": kind, "seed": seed, **found, "seconds": {name: found["seconds"] for name, found in steps.items()}}

"""A task that nobody contributed: what a composed model makes of it untrained, and as the start of a fine-tuning.

All tasks are composed as somebody would who releases them: at the setting of each method that validates best on all of
them. Held-out tasks are then learned from few examples, the same ones for every start, at the rate that validates best.
Scores are normalised by fine-tuning the base on all examples.
"""

from typing import Any

import torch

from benchmarks.quality.experiments.bench import Bench
from benchmarks.quality.experiments.counts import UNTUNED
from benchmarks.quality.experiments.merging import Vector
from benchmarks.quality.experiments.plan import Plan
from benchmarks.quality.worlds.training import fine_tune

LEARNED = ("base", "breadcrumbs", "task arithmetic", "TIES")
"""Starts of fine-tunings; the others are only looked at untrained."""

RATES = (1.0, 0.2)
"""Parts of the usual learning rate that are tried; staying untrained is tried too."""

STEPS_EACH = {4: 5, 16: 20, 64: 40}
"""Steps of fine-tuning, by number of examples."""


def run(bench: Bench, plan: Plan, again: dict[str, dict[str, str]]) -> list[dict[str, Any]]:
    """Return a score for each start, task, number of examples and seed; `again` as an order of `counts` has it."""
    tasks = list(bench.kind.tasks)
    settings = dict(UNTUNED)
    for name, cuts in plan.tuned_cuts().items():
        key, _, alpha = again[name][str(len(tasks))].rpartition(" x ")
        settings[name] = {setting.key: setting for setting in cuts}[key].at(alpha)
    starts = {"base": bench.base} | {name: bench.merge(setting, tasks) for name, setting in settings.items()}
    found = []
    for name, weights in starts.items():
        for task in bench.kind.held_out:
            whole = {"start": name, "task": task}
            score = bench.score(weights, task, "test")
            found.append(whole | {"examples": 0, "seed": 0, "score": score, "normalised": score / bench.tuned[task]})
            for examples in plan.few_samples if name in LEARNED else ():
                for seed in range(plan.few_seeds):
                    score = learn(bench, weights, task, examples, seed)
                    normalised = score / bench.tuned[task]
                    found.append(whole | {"examples": examples, "seed": seed, "score": score, "normalised": normalised})
    return found


def learn(bench: Bench, weights: Vector, task: str, count: int, seed: int) -> float:
    """Fine-tune from these weights on a few examples, at each rate; return the test score of what validates best."""
    examples = bench.parts[task].tune
    places = torch.randperm(len(examples), generator=torch.Generator().manual_seed(1000 * bench.seed + seed))[:count]
    found = [(bench.score(weights, task, "validation"), bench.score(weights, task, "test"))]
    for part in RATES:
        bench.put(weights)
        rate = part * bench.kind.rate
        fine_tune(bench.kind, bench.model, examples.take(places), seed, STEPS_EACH[count], rate)
        tuned = bench.flatten(bench.model)
        found.append((bench.score(tuned, task, "validation"), bench.score(tuned, task, "test")))
    return max(found, key=lambda scores: scores[0])[1]

"""Number of tasks, and tuning once against tuning again: one order of tasks, composed from its first 1, 2, ... N.

All settings are scored on the validation part. A method's setting is chosen once, where the mean over the first 2 and
the first 4 tasks is best; it is chosen again where it is best at each number of tasks. On the test part then: all
alphas at the cuts chosen once (their best is the oracle), averaging, the defaults, and what was chosen again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.quality.experiments.alphas import ascending, beyond
from benchmarks.quality.experiments.bench import DEFAULT, Bench
from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.experiments.plan import Plan

AVERAGING = Setting("averaging")
UNTUNED = {"averaging": AVERAGING, "defaults": DEFAULT}
"""What nothing is chosen for."""


def run(bench: Bench, plan: Plan) -> list[dict[str, Any]]:
    """Return what was found in each order."""
    return [run_order(bench, plan, bench.order(number)) for number in range(bench.kind.orders)]


def run_order(bench: Bench, plan: Plan, order: list[str]) -> dict[str, Any]:
    """Run one order."""
    counts = bench.kind.counts
    validation: dict[int, dict[Setting, float]] = {count: {} for count in counts}
    methods: dict[str, list[Setting]] = {}
    for method, cuts in plan.tuned_cuts().items():
        for setting in cuts:
            found = try_alphas(bench, plan.alphas, setting, order)
            methods.setdefault(method, []).extend(setting.at(alpha) for alpha in found[counts[0]])
            for count in counts:
                validation[count] |= {setting.at(alpha): score for alpha, score in found[count].items()}
    once = {method: choose(settings, validation, plan.few) for method, settings in methods.items()}
    again = {
        method: {count: choose(settings, validation, [count]) for count in counts}
        for method, settings in methods.items()
    }
    test = {}
    for count in counts:
        wanted = set(UNTUNED.values())
        wanted |= {setting for setting in validation[count] if setting.at("") in {one.at("") for one in once.values()}}
        wanted |= {found[count] for found in again.values()}
        tasks = order[:count]
        test[count] = {setting.key: bench.evaluate(setting, tasks, "test") for setting in sorted(wanted)}
        test[count]["base"] = bench.normalised(bench.base, tasks, "test")
    return {
        "order": order,
        "once": {method: vars(setting) for method, setting in once.items()},
        "again": {method: {count: setting.key for count, setting in found.items()} for method, found in again.items()},
        "validation": {
            count: {setting.key: score for setting, score in found.items()} for count, found in validation.items()
        },
        "test": test,
    }


def try_alphas(
    bench: Bench, alphas: Sequence[str], setting: Setting, order: Sequence[str]
) -> dict[int, dict[str, float]]:
    """Return the validation scores of alphas, by number of tasks; all numbers go on while the edge wins at one."""
    found: dict[int, dict[str, float]] = {count: {} for count in bench.kind.counts}
    waiting = list(alphas)
    while waiting:
        for count, scores in found.items():
            for alpha in waiting:
                scores[alpha] = bench.evaluate(setting.at(alpha), order[:count], "validation")
        waiting = sorted({alpha for scores in found.values() if (alpha := beyond(scores)) is not None})
    return {count: ascending(scores) for count, scores in found.items()}


def choose(settings: list[Setting], scores: Mapping[int, Mapping[Setting, float]], counts: Sequence[int]) -> Setting:
    """Return the setting with the best mean over counts; the first of equals."""
    known = [count for count in counts if count in scores]
    return max(settings, key=lambda setting: float(np.mean([scores[count][setting] for count in known])))

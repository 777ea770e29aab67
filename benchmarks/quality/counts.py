"""Number of tasks, and tuning once against tuning again: one order of tasks, composed from its first 1, 2, ... N.

All settings are scored on the validation part. A method's setting is chosen once, where the mean over the first 2 and
the first 4 tasks is best; it is chosen again where it is best at each number of tasks. On the test part then: all
alphas at the cuts chosen once (their best is the oracle), averaging, the defaults, and what was chosen again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.quality.bench import DEFAULT, Bench
from benchmarks.quality.merging import Setting
from benchmarks.quality.plan import Plan

AVERAGING = Setting("averaging")
UNTUNED = {"averaging": AVERAGING, "defaults": DEFAULT}
"""What nothing is chosen for."""


def run(bench: Bench, plan: Plan) -> list[dict[str, Any]]:
    """Return what was found in each order."""
    return [run_order(bench, plan, bench.order(number)) for number in range(bench.kind.orders)]


def run_order(bench: Bench, plan: Plan, order: list[str]) -> dict[str, Any]:
    """Run one order."""
    methods, counts = plan.tuned_settings(), bench.kind.counts
    validation: dict[int, dict[Setting, float]] = {count: {} for count in counts}
    for settings in methods.values():
        for setting in settings:
            for count in counts:
                validation[count][setting] = bench.evaluate(setting, order[:count], "validation")
    once = {method: choose(settings, validation, plan.few) for method, settings in methods.items()}
    again = {
        method: {count: choose(settings, validation, [count]) for count in counts}
        for method, settings in methods.items()
    }
    test = {}
    for count in counts:
        wanted = set(UNTUNED.values())
        wanted |= {setting.at(alpha) for setting in once.values() for alpha in plan.alphas}
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


def choose(settings: list[Setting], scores: Mapping[int, Mapping[Setting, float]], counts: Sequence[int]) -> Setting:
    """Return the setting with the best mean over counts; the first of equals."""
    known = [count for count in counts if count in scores]
    return max(settings, key=lambda setting: float(np.mean([scores[count][setting] for count in known])))

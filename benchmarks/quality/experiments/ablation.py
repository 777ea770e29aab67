"""What each part of the mask is good for: each cut alone, none, other masks of the same size, and a grid of both cuts.

Alpha is chosen on the validation part for each, and at each number of tasks, so that no mask is judged at an alpha that
suits another; scores are of the test part. The grid is of the validation part.
"""

from dataclasses import replace
from fractions import Fraction
from typing import Any

from benchmarks.quality.experiments.alphas import extend
from benchmarks.quality.experiments.bench import DEFAULT, Bench
from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.experiments.plan import Plan


def masks(order: int) -> dict[str, Setting]:
    """Return the masks by what they are called; random ones by another seed for each order."""
    return {
        "no cut": replace(DEFAULT, drop_bottom="0", drop_top="0"),
        "top cut": replace(DEFAULT, drop_bottom="0"),
        "bottom cut": replace(DEFAULT, drop_top="0"),
        "both cuts": DEFAULT,
        "both, by row": replace(DEFAULT, granularity="row"),
        "random": replace(DEFAULT, random=1 + order),
    }


def run(bench: Bench, plan: Plan) -> dict[str, Any]:
    """Return what was found."""
    counts = [count for count in bench.kind.counts if count > 1][-plan.ablation_counts :]
    orders = [bench.order(number) for number in range(bench.kind.orders)]
    compared = []
    for number, order in enumerate(orders):
        for name, setting in masks(number).items():
            for count in counts:
                alpha, score = best_alpha(bench, plan, setting, order[:count])
                compared.append({"order": number, "count": count, "mask": name, "alpha": alpha, "test": score})
    tasks = orders[0][: plan.grid_count]
    grid = [
        {"drop_bottom": bottom, "drop_top": top, "alpha": alpha, "validation": score}
        for bottom in plan.fine_bottoms
        for top in plan.fine_tops
        if Fraction(bottom) + Fraction(top) < 1
        for alpha, score in try_alphas(bench, plan, Setting("breadcrumbs", bottom, top), tasks).items()
    ]
    return {"compared": compared, "grid": grid}


def try_alphas(bench: Bench, plan: Plan, setting: Setting, tasks: list[str]) -> dict[str, float]:
    """Return the validation scores of alphas."""
    return extend(plan.alphas, lambda alpha: bench.evaluate(setting.at(alpha), tasks, "validation"))


def best_alpha(bench: Bench, plan: Plan, setting: Setting, tasks: list[str]) -> tuple[str, float]:
    """Return the alpha that is best on the validation part, and the score on the test part there."""
    scores = try_alphas(bench, plan, setting, tasks)
    alpha = max(scores, key=scores.__getitem__)
    return alpha, bench.evaluate(setting.at(alpha), tasks, "test")

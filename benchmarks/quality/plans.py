"""How much is done: everything, or just enough to see in three minutes that all of it works."""

from dataclasses import asdict, replace
from typing import Any

from benchmarks.quality.experiments.plan import Plan
from benchmarks.quality.minilm import kind as minilm
from benchmarks.quality.worlds.language import Language
from benchmarks.quality.worlds.restoration import Restoration
from benchmarks.quality.worlds.vision import Vision

FULL = Plan((Language(), Vision(), Restoration(), *minilm.kinds()))


def quick() -> Plan:
    """Return the plan of `--quick`."""
    small = {"worlds": 1, "orders": 1, "tune_steps": 5, "counts": (1, 2, 3)}
    real = minilm.MiniLM(settings=(minilm.BREADCRUMBS, minilm.WHOLE, minilm.TIES), texts=48, tested=48, tuned=3)
    text = Language(layers=2, validation=4, test=8)
    kinds = [
        replace(kind, tasks=kind.tasks[:3], held_out=kind.held_out[:1], base_steps=steps, **small)
        for kind, steps in zip((text, *FULL.kinds[1:3], real), (10, 20, 40, 0), strict=True)
    ]
    kinds[-1] = replace(kinds[-1], counts=(1, 3))  # of models of 22.7 M weights, fewer
    return Plan(
        kinds,
        alphas=("0.1", "0.3", "1"),
        bottoms=("0.85",),
        tops=("0", "0.007"),
        trims=("0.8",),
        few=(2,),
        fine_bottoms=("0", "0.85"),
        fine_tops=("0", "0.007"),
        grid_count=2,
        ablation_counts=1,
        few_samples=(4,),
        few_seeds=1,
    )


def describe(plan: Plan) -> dict[str, Any]:
    """Return everything that a plan says."""
    return asdict(plan) | {"kinds": [asdict(kind) for kind in plan.kinds]}

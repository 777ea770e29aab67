"""Bytes of a patch against score, over how much of it is kept and how its values are written."""

from dataclasses import replace
from typing import Any

from benchmarks.quality.experiments.ablation import best_alpha
from benchmarks.quality.experiments.bench import DEFAULT, Bench
from benchmarks.quality.experiments.plan import Plan

DTYPES = ("F32", "BF16", "F16")


def run(bench: Bench, plan: Plan) -> list[dict[str, Any]]:
    """Return size and score of each, in the first order."""
    tasks, found = bench.order(0)[: plan.grid_count], []
    whole = (bench.folder / "base" / "model.safetensors").stat().st_size
    for bottom in plan.fine_bottoms:
        setting = replace(DEFAULT, drop_bottom=bottom, drop_top="0" if bottom == "0" else DEFAULT.drop_top)
        alpha, _ = best_alpha(bench, plan, setting, tasks)
        for dtype in DTYPES:
            written = replace(setting, value_dtype=dtype, alpha=alpha)
            sizes = [bench.path(written.params, task).stat().st_size for task in tasks]
            found.append(
                {
                    "drop_bottom": bottom,
                    "drop_top": setting.drop_top,
                    "value_dtype": dtype,
                    "alpha": alpha,
                    "bytes": sum(sizes) / len(sizes),
                    "checkpoint": whole,
                    "test": bench.evaluate(written, tasks, "test"),
                }
            )
    return found

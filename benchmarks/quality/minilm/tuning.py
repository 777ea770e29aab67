"""What `crumb tune` gains on the real base: from alpha auto, scored on validation texts, and judged on test texts."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.quality.experiments.bench import Bench
from benchmarks.quality.experiments.merging import Setting, Vector, add_patches, exact, read_weights
from benchmarks.quality.minilm.kind import MiniLM
from client.trials import tuning
from client.trials.searching import Setting as Found


def tuned(bench: Bench, kind: MiniLM, setting: Setting, counts: Sequence[int]) -> list[dict[str, Any]]:
    """Tune the first tasks of the first order as `crumb tune` does; return what was gained."""
    lines = []
    for count in counts:
        tasks = bench.order(0)[:count]

        def score(folder: Path, tasks: Sequence[str] = tasks) -> float:
            weights = read_weights(folder, list(bench.shapes))
            return bench.normalised(weights, tasks, "validation", kind.texts // len(tasks))

        files = [(bench.path(setting.params, task), "1") for task in tasks]
        result = tuning.tune_files(bench.folder / "base", files, tuning.How(score, budget=kind.tuned))
        first = result.tried[0]
        lines.append(
            {
                "count": count,
                "tried": len(result.tried),
                **{
                    name: {
                        "alpha": one.setting.alpha,
                        "weights": one.setting.weights,
                        "validation": one.score,
                        "test": _tested(bench, kind, setting, tasks, one.setting),
                    }
                    for name, one in (("auto", first), ("tuned", result.best))
                },
            }
        )
    return lines


def _tested(bench: Bench, kind: MiniLM, setting: Setting, tasks: Sequence[str], found: Found) -> float:
    return bench.normalised(_composed(bench, setting, tasks, found), tasks, "test", kind.tested // len(tasks))


def _composed(bench: Bench, setting: Setting, tasks: Sequence[str], found: Found) -> Vector:
    weighed = zip(bench.of_tasks(setting, tasks), found.weights, strict=True)
    patches = [replace(patch, values=patch.values * float(weight)) for patch, weight in weighed]
    return add_patches(bench.base, patches, exact(found.alpha))

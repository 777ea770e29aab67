"""What is tried on one world of MiniLM: each setting, in each order of tasks, at the first 1, 2, 4, ... of them.

Alpha is looked for on validation texts at every number of tasks: between what keeping alpha and what keeping alpha x
tasks would say, on beyond where the edge wins, and then more finely beside the best. On test texts, at the best and at
the alpha that was best at few tasks. Beside the scores stand the norms that rules for alpha need: they are of the
patches alone.
"""

import math
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from safetensors import safe_open

from benchmarks.quality.experiments import alphas
from benchmarks.quality.experiments.bench import COMBINED, Bench
from benchmarks.quality.experiments.contributions import Model
from benchmarks.quality.experiments.merging import Setting, Values
from benchmarks.quality.minilm.kind import BREADCRUMBS, MEAN, TIES, MiniLM
from benchmarks.quality.minilm.tasks import PAIRS
from benchmarks.quality.minilm.tuning import tuned

FEW = 4
"""At no more tasks than these alpha is chosen once."""

START = (1.0, 1.7)
"""Where alpha is looked for first, for one task."""

AVERAGING = Setting("averaging", value_dtype="BF16")


def few(counts: Sequence[int]) -> int:
    """Return the number of tasks at which alpha is chosen once."""
    return max(count for count in counts if count <= FEW)


def at_tuning(counts: Sequence[int]) -> list[int]:
    """Return the numbers of tasks at which `crumb tune` is tried: that at which alpha is chosen once, and the next."""
    return [count for count in counts if count >= few(counts)][:2]


def step(setting: Setting) -> str:
    """Return the name of the step that tries a setting."""
    return "merged " + setting.key.replace("/", " ")


def bracket(best: dict[int, str], counts: Sequence[int], count: int) -> tuple[float, float]:
    """Return between which alphas to look: those that keep alpha x tasks, and alpha, of fewer tasks."""
    if not best:
        return START
    known = min(max(best), few(counts))
    return float(best[known]) * known / count, float(best[known])


def norm(patches: Sequence[Values], size: int) -> float:
    """Return the norm of the sum of patches."""
    total = np.zeros(size)
    for patch in patches:
        total[slice(None) if patch.places is None else patch.places] += patch.values
    return float(np.linalg.norm(total))


def norms(bench: Bench, setting: Setting, tasks: Sequence[str]) -> dict[str, float]:
    """Return the mean norm of patches, that of their sum, and that of what the method makes of them before alpha.

    Also `density`, the mean part of the weights that a patch changes.
    """
    patches = bench.of_tasks(setting, tasks)
    found = {"patches": float(np.mean([norm([patch], bench.size) for patch in patches]))}
    found["sum"] = norm(patches, bench.size)
    combines = setting.method in COMBINED
    found["density"] = float(np.mean([np.count_nonzero(patch.values) for patch in patches])) / bench.size
    found["made"] = float(np.linalg.norm(bench.combined(setting, tasks))) if combines else found["sum"]
    return found


def merged(bench: Bench, kind: MiniLM, setting: Setting) -> dict[str, Any]:
    """Return what was found of a setting, in each order and at each number of tasks."""
    return {
        "setting": vars(setting),
        "bytes": [bench.path(setting.params, task).stat().st_size for task in kind.tasks],
        "orders": [_one_order(bench, kind, setting, bench.order(number)) for number in range(kind.orders)],
    }


def _one_order(bench: Bench, kind: MiniLM, setting: Setting, order: list[str]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    best: dict[int, str] = {}
    for count in kind.counts:
        tasks = order[:count]

        def validated(alpha: str, tasks: list[str] = tasks) -> float:
            return bench.evaluate(setting.at(alpha), tasks, "validation", kind.texts // len(tasks))

        scores = alphas.search(validated, *bracket(best, kind.counts, count))
        best[count] = alphas.best(scores)
        wanted = {best[count], best[few(kind.counts)]} if count > few(kind.counts) else {best[count]}
        found[count] = {
            "validation": scores,
            "best": best[count],
            "test": {alpha: _tested(bench, kind, setting.at(alpha), tasks) for alpha in sorted(wanted, key=float)},
            "norms": norms(bench, setting, tasks),
        }
    return found


def _tested(bench: Bench, kind: MiniLM, setting: Setting, tasks: Sequence[str]) -> float:
    return bench.evaluate(setting, tasks, "test", kind.tested // len(tasks))


def averaged(bench: Bench, kind: MiniLM) -> list[dict[int, dict[str, float]]]:
    """Return the test scores of averaging and of the base, in each order."""
    found = []
    for number in range(kind.orders):
        order = bench.order(number)
        found.append(
            {
                count: {
                    "averaging": _tested(bench, kind, AVERAGING, order[:count]),
                    "base": bench.normalised(bench.base, order[:count], "test", kind.tested // count),
                }
                for count in kind.counts
            }
        )
    return found


def changes(bench: Bench, kind: MiniLM) -> dict[str, Any]:
    """Return how large the changes of fine-tuning are, beside the base's weights, and how alike those of two tasks."""
    with safe_open(bench.folder / "base" / "model.safetensors", "np") as file:
        tensors = (file.get_tensor(name) for name in file.keys())  # noqa: SIM118
        squares = [float((tensor.astype(np.float64) ** 2).sum()) for tensor in tensors if tensor.dtype.kind == "f"]
    whole, layers = math.sqrt(sum(squares)), float(np.linalg.norm(bench.base.astype(np.float64)))
    found = {task: bench.weights(task) - bench.base for task in kind.tasks}
    sizes = {task: float(np.linalg.norm(change)) for task, change in found.items()}
    cosines = [float(found[one] @ found[other]) / sizes[one] / sizes[other] for one, other in combinations(found, 2)]
    return {
        "of_layers": {task: size / layers for task, size in sizes.items()},
        "of_all": {task: size / whole for task, size in sizes.items()},
        "cosines": cosines,
    }


def transferred(bench: Bench, kind: MiniLM, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what models of all tasks make of the tasks that nobody contributed, and what the pair's patch does."""
    count = max(kind.counts)
    order = bench.order(0)[:count]
    starts = {"base": bench.base, "averaging": bench.merge(AVERAGING, order)}
    for key, of_setting in found.items():
        alpha = of_setting["orders"][0][str(count)]["best"]
        starts[key] = bench.merge(Setting(**of_setting["setting"]).at(alpha), order)
    pairs = {task: pair for task, pair in PAIRS.items() if task in kind.held_out and pair in kind.tasks}
    lines = [
        {"start": start, "task": task, "score": bench.score(weights, task, "test")}
        for start, weights in starts.items()
        for task in kind.held_out
    ]
    for task, pair in pairs.items():
        score = bench.score(bench.merge(BREADCRUMBS.at("1"), [pair]), task, "test")
        lines.append({"start": "the pair's patch", "task": task, "score": score})
    return [line | {"tuned": bench.tuned[str(line["task"])]} for line in lines]


def composed(bench: Bench, model: Model, kind: MiniLM, found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Compose some of the models by the product, at the registry or here, and compare bit by bit."""
    order, lines, counts = bench.order(0), [], sorted({few(kind.counts), max(kind.counts)})
    for setting in (BREADCRUMBS, TIES, MEAN):
        if setting.key not in found:
            continue
        for count in counts:
            alpha = found[setting.key]["orders"][0][str(count)]["best"]
            compose = model.compose_here if setting.method in COMBINED else model.compose
            lines.append(compose(setting.at(alpha), order[:count]))
    return lines


def run(bench: Bench, model: Model, kind: MiniLM, steps: Any) -> None:
    """Run all steps of a world that is trained and whose patches came back from the registry."""
    steps.run("changes", lambda: changes(bench, kind))
    steps.run("averaging", lambda: averaged(bench, kind))
    found = {}
    for setting in kind.settings:
        found[setting.key] = steps.run(step(setting), lambda setting=setting: merged(bench, kind, setting))
    steps.run("compositions", lambda: composed(bench, model, kind, found))
    if bench.seed == 0:
        steps.run("tuned", lambda: tuned(bench, kind, BREADCRUMBS, at_tuning(kind.counts)))
    if kind.held_out:
        steps.run("held-out", lambda: transferred(bench, kind, found))

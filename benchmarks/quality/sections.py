"""What the report says of each experiment: its tables, and what they are of."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.quality.experiments.bench import DEFAULT
from benchmarks.quality.experiments.contributions import MEASURES
from benchmarks.quality.experiments.merging import Setting
from benchmarks.quality.results import METHODS, Order, Results, nearest
from benchmarks.quality.statistics import correlation, mean
from benchmarks.results import Table
from benchmarks.science.mergekit import WANTED

SHOWN = ("breadcrumbs", "defaults", "task arithmetic", "TIES", "averaging")
SHARED = 2.5
"""What the tasks share in the rule alpha = SHARED / tasks, chosen so that all kinds come near their best."""

At = Callable[[Order, int], float]


def interval(values: list[float], digits: int = 3) -> str:
    """Write a mean with half of its 95 % interval."""
    centre, half = mean(values)
    return f"{centre:.{digits}f} ± {half:.{digits}f}" if len(values) > 1 else f"{centre:.{digits}f}"


def below(parts: list[str]) -> str:
    """Write one part below the other."""
    return "\n\n".join(parts)


def by_count(results: Results, kind: str, title: str, columns: dict[str, At], base: bool = False) -> str:
    """Write a table with a line for each number of tasks: means over the orders, with intervals; base's without."""
    orders, rows = results.orders(kind), []
    for count in results.kind(kind)["counts"]:
        bases = [f"{mean([order.base(count) for order in orders])[0]:.3f}"] if base else []
        rows.append(
            [str(count), *bases, *(interval([at(order, count) for order in orders]) for at in columns.values())]
        )
    return Table(f"{kind}, {title}", ["tasks", *["base"] * base, *columns], rows).markdown()


def once(method: str) -> At:
    """Return what scores a method's setting that was chosen once."""
    return lambda order, count: order.chosen_once(count, method)


def counts(results: Results) -> str:
    """Experiment 1."""
    ours, tables = METHODS[0], []

    def oracle(method: str) -> At:
        return lambda order, count: order.oracle(count, method)

    def less(one: At, other: At) -> At:
        return lambda order, count: one(order, count) - other(order, count)

    chosen, best = {method: once(method) for method in SHOWN}, {method: oracle(method) for method in METHODS}
    differences = {method: less(once(ours), once(method)) for method in (*METHODS[1:], "averaging")}
    differences |= {f"oracle: {method}": less(oracle(ours), oracle(method)) for method in METHODS[1:]}
    for kind in results.kinds:
        tables.append(by_count(results, kind, "chosen once on few tasks", chosen, base=True))
        tables.append(by_count(results, kind, "oracle alpha for each set", best))
        tables.append(by_count(results, kind, f"{ours} less others, order by order", differences))
    few = " and ".join(map(str, results.plan["few"]))
    return f"""## 1. Number of tasks

Lines: settings chosen once, on the first {few} tasks of each order (`defaults`: 0.85 / 0.007 / 0.3, not chosen;
averaging has nothing to choose). Dashed: the best alpha for each set, found on the test part itself.

![number of tasks](figures/counts.svg)

{below(tables)}"""


def retuning(results: Results) -> str:
    """Experiment 2."""
    tables, plan, ours = [], results.plan, METHODS[0]

    def regret(method: str, held: At) -> At:
        return lambda order, count: order.again(count, method) - held(order, count)

    def shrunk(power: float) -> At:
        return lambda order, count: order.shrunk(count, ours, power, plan["few"])

    columns: dict[str, At] = {f"{ours} retuned": lambda order, count: order.again(count, ours)}
    columns |= {method: regret(method, once(method)) for method in METHODS}
    columns |= {"defaults": regret(ours, once("defaults"))}
    columns |= {"alpha ~ 1/√n": regret(ours, shrunk(0.5)), "alpha ~ 1/n": regret(ours, shrunk(1))}
    for kind in results.kinds:
        tables.append(by_count(results, kind, "regret", columns))
    for kind in results.kinds:
        numbers, rows = results.kind(kind)["counts"], []
        for name, setting in tuned(results).items():
            best = [[order.best_alpha(n, setting) for order in results.orders(kind)] for n in numbers]
            rows.append([name, *(f"{np.exp(np.mean(np.log(values))):.2f}" for values in best)])
        tables.append(Table(f"{kind}, best alpha", ["tasks", *map(str, numbers)], rows).markdown())
        rows = []
        for name, choose in rules(results).items():
            found = [
                [order.validated(n, DEFAULT.at(choose(order, n))) for order in results.orders(kind)] for n in numbers
            ]
            rows.append([name, *map(interval, found)])
        tables.append(Table(f"{kind}, default cuts, validation part", ["alpha", *map(str, numbers)], rows).markdown())
    return f"""## 2. No retuning

Regret: the score when alpha and cuts are chosen again for each number of tasks (on the validation part), less the score
when they stay as they were chosen on few tasks; 0 is none. The last three columns are breadcrumbs, against breadcrumbs
retuned: the defaults, and alpha = c / √n and c / n with c and the cuts chosen once (the nearest alpha of the grid).
Below, which alpha is best on the validation part: geometric means over the orders. And at the default cuts: what comes
of the default alpha, and of one that tasks share (a description and no test, since it was read off these tables).

{below(tables)}"""


def rules(results: Results) -> dict[str, Callable[[Order, int], str]]:
    """Return ways to say alpha for a number of tasks."""
    return {
        DEFAULT.alpha: lambda order, count: DEFAULT.alpha,
        f"{SHARED} / tasks": lambda order, count: nearest(order.alphas(count, DEFAULT), SHARED / count),
        "best for each": lambda order, count: nearest(order.alphas(count, DEFAULT), order.best_alpha(count, DEFAULT)),
    }


def tuned(results: Results) -> dict[str, Setting]:
    """Return the settings whose best alpha is shown."""
    plan = results.plan
    found = [Setting("task arithmetic"), *(Setting("TIES", trim) for trim in plan["trims"])]
    found += [Setting("breadcrumbs", bottom, plan["tops"][-1]) for bottom in plan["bottoms"]]
    return {setting.key: setting for setting in found}


def ablation(results: Results) -> str:
    """Experiment 3."""
    tables = []
    for kind in results.kinds:
        found = [line for world in results.worlds(kind) for line in world["ablation"]["compared"]]
        masks = list(dict.fromkeys(line["mask"] for line in found))
        rows = []
        for count in sorted({line["count"] for line in found}):
            rows.append(
                [
                    str(count),
                    *(
                        interval([x["test"] for x in found if (x["count"], x["mask"]) == (count, mask)])
                        for mask in masks
                    ),
                ]
            )
            alphas = [[float(x["alpha"]) for x in found if (x["count"], x["mask"]) == (count, m)] for m in masks]
            rows.append([f"{count}: mean alpha", *(f"{np.mean(values):.2f}" for values in alphas)])
        tables.append(Table(f"{kind}, alpha chosen for each mask and count", ["tasks", *masks], rows).markdown())
    others = [bottom for bottom in results.plan["bottoms"] if bottom != DEFAULT.drop_bottom]
    tables += [other_cuts(results, kind, others) for kind in results.kinds if others]
    return f"""## 3. Ablation

Cuts are drop_bottom 0.85 and drop_top 0.007; `random` keeps as many changes of each tensor as both cuts do, anywhere.
Below, the other values of drop_bottom less 0.85, order by order, each at the alpha that is best on the validation part,
scored there; * where that alpha was the largest tried in some order, so that the cut may do better than shown.

{below(tables)}

The grid: {results.plan["grid_count"]} tasks, mean of the worlds, validation part.

![grid](figures/grid.svg)"""


def other_cuts(results: Results, kind: str, bottoms: list[str]) -> str:
    """Return what other values of drop_bottom gain on the default, by number of tasks."""
    orders, counts, rows = results.orders(kind), results.kind(kind)["counts"], []
    for bottom in bottoms:
        cuts, cells = Setting(DEFAULT.method, bottom, DEFAULT.drop_top), []
        for count in counts:
            gained = [order.best_validated(count, cuts) - order.best_validated(count, DEFAULT) for order in orders]
            at_edge = any(order.best_alpha(count, cuts) == float(order.alphas(count, cuts)[-1]) for order in orders)
            cells.append(interval(gained) + " *" * at_edge)
        rows.append([f"{bottom} / {DEFAULT.drop_top}", *cells])
    return Table(f"{kind}, other cuts less the default", ["tasks", *map(str, counts)], rows).markdown()


def held_out(results: Results) -> str:
    """Experiment 4."""
    tables = []
    for kind in results.kinds:
        found = [dict(line, world=world["seed"]) for world in results.worlds(kind) for line in world["held-out"]]
        starts = list(dict.fromkeys(line["start"] for line in found))
        rows = []
        for start in starts:
            row = [start]
            for examples in (0, *results.plan["few_samples"]):
                values = [x["normalised"] for x in found if (x["start"], x["examples"]) == (start, examples)]
                row.append(f"{np.mean(values):.3f}" if values else "")
            gains = [by_task(found, start, examples) for examples in (0, *results.plan["few_samples"])]
            row += [f"{sum(gain > 0 for gain in gain_)} of {len(gain_)}" if gain_ else "" for gain_ in gains]
            rows.append(row)
        few = [f"{examples} examples" for examples in results.plan["few_samples"]]
        columns = ["start", "untrained", *few, "better than base", *(f"with {text}" for text in few)]
        tables.append(Table(f"{kind}, mean normalised score on held-out tasks", columns, rows).markdown())
    return f"""## 4. Held-out tasks

All tasks composed, at what validates best on all of them; then a task that is none of them, untrained and fine-tuned on
few examples (a sequence of 128 bytes is an example of language), at the learning rate that validates best, or not at
all. The last columns count held-out tasks of all worlds in which the start did better than the base.

{below(tables)}"""


def by_task(found: list[dict[str, Any]], start: str, examples: int) -> list[float]:
    """Return by how much a start is better than the base, for each task of each world."""

    def means(name: str) -> dict[str, list[float]]:
        values: dict[str, list[float]] = {}
        for line in found:
            if (line["start"], line["examples"]) == (name, examples):
                values.setdefault(f"{line['world']} {line['task']}", []).append(line["score"])
        return values

    ours, base = means(start), means("base")
    return [float(np.mean(ours[task]) - np.mean(base[task])) for task in ours if start != "base"]


def sizes(results: Results) -> str:
    """Experiment 5."""
    tables = []
    for kind in results.kinds:
        worlds = [world["sizes"] for world in results.worlds(kind)]
        rows = []
        for same in zip(*worlds, strict=True):
            first = same[0]
            part = np.mean([point["bytes"] / point["checkpoint"] for point in same])
            alphas = "/".join(dict.fromkeys(point["alpha"] for point in same))
            rows.append(
                [
                    f"{first['drop_bottom']} / {first['drop_top']}",
                    first["value_dtype"],
                    alphas,
                    f"{np.mean([point['bytes'] for point in same]) / 1e3:,.0f}",
                    f"{100 * part:.1f} %",
                    f"{np.mean([point['test'] for point in same]):.4f}",
                ]
            )
        columns = ["drop_bottom / drop_top", "values", "alpha", "kB", "of the checkpoint", "score"]
        tables.append(Table(f"{kind}, {results.plan['grid_count']} tasks", columns, rows).markdown())
    return f"""## 5. Size

Mean bytes of a patch file, and the score of the composition; the checkpoint is float32, alpha is chosen for each size.

![size](figures/sizes.svg)

{below(tables)}"""


def interference(results: Results) -> str:
    """Experiment 6."""
    rows = []
    alphas = list(dict.fromkeys(pair["alpha"] for pair in results.worlds(results.kinds[0])[0]["pairs"]))
    for kind in results.kinds:
        for alpha in alphas:
            worlds = [[pair for pair in world["pairs"] if pair["alpha"] == alpha] for world in results.worlds(kind)]
            lost = [pair["loss"] for pairs in worlds for pair in pairs]
            row = [f"{kind}, alpha {alpha}", f"{np.mean(lost):+.3f}"]
            for measure in MEASURES:
                rank, low, high = correlation(worlds, measure, "loss")
                row.append(f"{rank:+.2f} ({low:+.2f}..{high:+.2f})")
            rows.append(row)
    text = Table("Spearman's rank correlation with the loss", ["pairs", "mean loss", *MEASURES], rows).markdown()
    return f"""## 6. Interference

Of every two tasks: what both lose, normalised, when the other patch (at the default cuts) is added. Intervals are of a
bootstrap over tasks; the measures are those of the registry's conflict map.

![pairs](figures/pairs.svg)

{text}"""


def peers(results: Results) -> str:
    """Compare with mergekit."""
    rows = []
    for world in results.document["worlds"]:
        for found in world.get("peers", []):
            rows.append(
                [
                    f"{world['kind']}, {found['method']}",
                    found["setting"],
                    f"{found['distance']:.1e}",
                    f"{found['places']:,} of {found['weights']:,}",
                    f"{found['ours']:.5f}",
                    f"{found['theirs']:.5f}",
                ]
            )
    if not rows:
        return "## Against mergekit\n\nNot compared in this run."
    columns = ["method", "ours", "distance", "weights apart", "our score", "its score"]
    text = Table("mergekit's merges of the same checkpoints", columns, rows).markdown()
    return f"""## Against mergekit

{WANTED[-1].replace("==", " ")}. Distance is that of the two models over that of ours from the base; weights are
apart when they differ by more than 10⁻⁶. Averaging and task arithmetic differ by roundings only. mergekit keeps
floor(density N) changes of a tensor, we drop floor(drop_bottom N) and floor(drop_top N) and so keep up to two more:
that is all that TIES and breadcrumbs differ by, no more than a few weights of each tensor.

{text}"""


SECTIONS = (counts, retuning, ablation, held_out, sizes, interference, peers)

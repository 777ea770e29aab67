"""The figures of the report, as SVG; the same results give the same files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.plot import BLUE, GREEN, GREY, ORANGE, RED, write
from benchmarks.quality.minilm import results as real
from benchmarks.quality.minilm.kind import CORE
from benchmarks.quality.results import METHODS, Results
from benchmarks.quality.statistics import mean

COLOURS = {"breadcrumbs": BLUE, "task arithmetic": ORANGE, "TIES": GREEN, "averaging": GREY, "defaults": RED}
MARKS = {"breadcrumbs": "o", "task arithmetic": "s", "TIES": "^", "averaging": "D", "defaults": "v"}


def draw(results: Results, folder: Path) -> None:
    """Write all figures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in FIGURES.items() if results.kinds else ():
        write(partial(figure, results), folder / f"{name}.svg")
    if real.kinds(results):
        write(partial(real_base, results), folder / "real-base.svg")


def _panels(results: Results, height: float = 3.6) -> tuple[Figure, list[Any]]:
    kinds = results.kinds
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.6 * len(kinds), height), layout="constrained", squeeze=False)
    for panel, kind in zip(axes[0], kinds, strict=True):
        panel.set_title(kind, loc="left")
    return figure, list(axes[0])


def counts(results: Results) -> Figure:
    """Score over number of tasks: chosen once with intervals, and the oracle's alpha dashed."""
    figure, panels = _panels(results)
    for panel, kind in zip(panels, results.kinds, strict=True):
        orders, numbers = results.orders(kind), list(results.kind(kind)["counts"])
        panel.plot(numbers, [mean([o.base(n) for o in orders])[0] for n in numbers], ":", color=GREY, label="base")
        for method, colour in COLOURS.items():
            found = np.array([mean([order.chosen_once(n, method) for order in orders]) for n in numbers])
            panel.plot(numbers, found[:, 0], MARKS[method] + "-", color=colour, label=method, markersize=5)
            panel.fill_between(
                numbers, found[:, 0] - found[:, 1], found[:, 0] + found[:, 1], color=colour, alpha=0.15, linewidth=0
            )
            if method in METHODS:
                best = [mean([o.oracle(n, method) for o in orders])[0] for n in numbers]
                panel.plot(numbers, best, "--", color=colour, linewidth=1)
        panel.set_xticks(numbers)
        panel.set_xlabel("tasks composed")
    panels[0].set_ylabel("mean normalised score (test)")
    panels[-1].legend(frameon=False, fontsize=8)
    return figure


def grid(results: Results) -> Figure:
    """Best score over alpha, by both cuts; and over drop_top, by drop_bottom and alpha."""
    kinds = results.kinds
    figure, axes = plt.subplots(2, len(kinds), figsize=(4.6 * len(kinds), 6.6), layout="constrained", squeeze=False)
    bottoms, tops = list(results.plan["fine_bottoms"]), list(results.plan["fine_tops"])
    for column, kind in enumerate(kinds):
        cells: dict[tuple[str, str, str], list[float]] = {}
        for world in results.worlds(kind):
            for cell in world["ablation"]["grid"]:
                cells.setdefault((cell["drop_bottom"], cell["drop_top"], cell["alpha"]), []).append(cell["validation"])
        alphas = sorted({alpha for _, _, alpha in cells}, key=float)
        means = {key: float(np.mean(found)) for key, found in cells.items()}
        by_cuts = [[_best(means, lambda k, b=b, t=t: k[:2] == (b, t)) for t in tops] for b in bottoms]
        by_alpha = [[_best(means, lambda k, b=b, a=a: (k[0], k[2]) == (b, a)) for a in alphas] for b in bottoms]
        _heat(axes[0][column], by_cuts, tops, bottoms, "drop_top", f"{kind}: best over alpha")
        _heat(axes[1][column], by_alpha, alphas, bottoms, "alpha", f"{kind}: best over drop_top")
    return figure


def _best(means: dict[tuple[str, str, str], float], wanted: Callable[[tuple[str, str, str]], bool]) -> float:
    return max((score for key, score in means.items() if wanted(key)), default=float("nan"))


def _heat(axes: Any, cells: list[list[float]], columns: list[str], rows: list[str], text: str, title: str) -> None:
    shown = np.array(cells)
    axes.imshow(shown, cmap="viridis", aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(text)
    axes.set_ylabel("drop_bottom")
    axes.set_title(title, loc="left", fontsize=10)
    middle = (np.nanmin(shown) + np.nanmax(shown)) / 2
    for row, line in enumerate(shown):
        for column, score in enumerate(line):
            if np.isfinite(score):
                colour = "white" if score < middle else "black"
                axes.text(column, row, f"{score:.3f}", ha="center", va="center", fontsize=7, color=colour)


def sizes(results: Results) -> Figure:
    """Score over bytes of a patch."""
    figure, panels = _panels(results)
    for panel, kind in zip(panels, results.kinds, strict=True):
        worlds = [world["sizes"] for world in results.worlds(kind)]
        for dtype, colour, mark in (("F32", BLUE, "o-"), ("BF16", ORANGE, "s--"), ("F16", GREEN, "^:")):
            points = [[point for point in world if point["value_dtype"] == dtype] for world in worlds]
            x = [
                100 * float(np.mean([p["bytes"] / p["checkpoint"] for p in same])) for same in zip(*points, strict=True)
            ]
            y = [float(np.mean([p["test"] for p in same])) for same in zip(*points, strict=True)]
            panel.plot(x, y, mark, color=colour, label=dtype, markersize=4)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.set_xlabel("bytes of a patch, % of the checkpoint (log)")
    panels[0].set_ylabel("mean normalised score (test)")
    panels[-1].legend(frameon=False)
    return figure


def pairs(results: Results) -> Figure:
    """What two tasks lose when their patches are composed, over the cosine of the patches."""
    figure, panels = _panels(results)
    for panel, kind in zip(panels, results.kinds, strict=True):
        for alpha, colour in (("0.3", BLUE), ("1", ORANGE)):
            found = [pair for world in results.worlds(kind) for pair in world["pairs"] if pair["alpha"] == alpha]
            panel.scatter(
                [p["cosine"] for p in found],
                [p["loss"] for p in found],
                s=8,
                color=colour,
                alpha=0.6,
                label=f"alpha {alpha}",
            )
        panel.set_xlabel("cosine of the two patches")
    panels[0].set_ylabel("normalised score lost")
    panels[-1].legend(frameon=False)
    return figure


def real_base(results: Results) -> Figure:
    """Score over number of tasks on the real base, at the best alpha, for each learning rate."""
    kinds = real.kinds(results)
    everywhere = [setting for setting in CORE if all(setting in real.settings(results, kind) for kind in kinds)]
    figure, axes = plt.subplots(1, len(kinds), figsize=(4.6 * len(kinds), 3.6), layout="constrained", squeeze=False)
    for panel, kind in zip(axes[0], kinds, strict=True):
        counts = results.kind(kind)["counts"]
        for plain, style in (("base", ":"), ("averaging", "--")):
            panel.plot(counts, [np.mean(real.plain(results, kind, plain, n)) for n in counts], style, label=plain)
        for setting in everywhere:
            runs = real.runs(results, [kind], setting)
            centres, halves = np.array([mean([run.score(n) for run in runs]) for n in counts]).T
            panel.errorbar(counts, centres, halves, fmt="o-", markersize=4, capsize=2, label=real.name_of(setting))
        panel.set_xscale("log", base=2)
        panel.set_xticks(counts, [str(count) for count in counts])
        panel.set_xlabel("tasks composed")
        panel.set_title(kind, loc="left")
    axes[0][0].set_ylabel("mean normalised score (test)")
    axes[0][-1].legend(frameon=False, fontsize=8)
    return figure


FIGURES: dict[str, Callable[[Results], Figure]] = {"counts": counts, "grid": grid, "sizes": sizes, "pairs": pairs}

"""One plot for each result, as SVG; the same result gives the same file.

Colours are those of Okabe and Ito, which people who see fewer colours tell apart.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.results import Result
from benchmarks.science.makers import llama
from benchmarks.server.database import NAMES, SAME

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#7F7F7F"
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10,
    "grid.color": "#DDDDDD",
    "savefig.facecolor": "white",
    "svg.hashsalt": "breadcrumbs",
}


def draw(result: Result, path: Path) -> None:
    """Write the plot of a result."""
    write(lambda: PLOTS[result.name](result), path)


def write(make: Callable[[], Figure], path: Path) -> None:
    """Make a figure in our style and write it."""
    with mpl.rc_context(STYLE):
        figure = make()
        figure.savefig(path, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
        plt.close(figure)


def _of(samples: Sequence[dict[str, Any]], key: str = "seconds") -> float:
    return float(median(sample[key] for sample in samples))


def _bars(axes: Axes, rows: Sequence[tuple[str, float, str]], text: str, unit: str) -> None:
    """Draw horizontal bars, the first on top, each with its value at its end."""
    names, values, colours = zip(*rows, strict=True)
    places = range(len(rows))
    axes.barh(places, values, color=colours, height=0.65)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(text)
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_xlim(0, max(values) * 1.2)


def _what(result: Result) -> str:
    found = result.parameters
    return f"{found['weights'] / 1e6:,.0f} M {found['dtype']} weights, {found['patches']} patches"


def _compose(result: Result) -> Figure:
    series = result.series
    rows = [("all bytes at memory speed", float(series["numbers"]["at bandwidth"]), GREY)]
    rows.append(("cat patches, cp base", _of(series["cat patches, cp base"]), GREY))
    rows += [(name, _of(series[name]), BLUE) for name in series if name.startswith("compose")]
    rows += [
        (name.replace(", ", ",\n"), _of(series[name]), ORANGE) for name in series if name.startswith("crumb apply")
    ]
    figure, axes = plt.subplots(figsize=(7, 3.1))
    _bars(axes, rows, "seconds (median)", "s")
    axes.set_title(f"Composing: {_what(result)}", loc="left")
    return figure


def _ranges(result: Result) -> Figure:
    series = result.series
    names = ("stored, whole", "ranges, whole", "ranges of 8 MiB in order", "compose, to a file")
    rows = [(name, _of(series[name]), BLUE if name.startswith("ranges") else GREY) for name in names]
    figure, axes = plt.subplots(figsize=(7, 2.1))
    _bars(axes, rows, "seconds for the whole model (median)", "s")
    axes.set_title(f"Ranges: {_what(result)}", loc="left")
    return figure


def _diff(result: Result) -> Figure:
    series = result.series
    rows = [("cat base tuned", _of(series["cat base tuned"]), GREY), ("diff", _of(series["diff"]), BLUE)]
    figure, axes = plt.subplots(figsize=(7, 1.7))
    _bars(axes, rows, "seconds (median)", "s")
    axes.set_title(
        f"Diff: {result.parameters['weights'] / 1e6:,.0f} M {result.parameters['dtype']} weights", loc="left"
    )
    return figure


def _conflicts(result: Result) -> Figure:
    series = result.series
    colours = {"cat": GREY, "plainly": ORANGE}
    rows = [
        (name, _of(samples), next((colour for word, colour in colours.items() if word in name), BLUE))
        for name, samples in series.items()
    ]
    figure, axes = plt.subplots(figsize=(7, 2.4))
    _bars(axes, rows, "seconds (median)", "s")
    axes.set_title(f"Comparing patches: {_what(result)}", loc="left")
    return figure


def _pages(result: Result) -> Figure:
    rows = [(path, median(found["milliseconds"]), BLUE) for path, found in result.series.items()]
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.24 * len(rows)))
    _bars(axes, rows, "milliseconds in the server (median)", "ms")
    axes.set_title(f"A model with {result.parameters['patches']} patches", loc="left")
    return figure


def _database(result: Result) -> Figure:
    """Draw each read's time on the large database over that on the small one, and the bar of 3."""
    kinds = result.series
    figure, spaces = plt.subplots(1, len(kinds), figsize=(6.5 * len(kinds), 5.5), layout="constrained", squeeze=False)
    for axes, (kind, found) in zip(spaces[0], kinds.items(), strict=True):
        best = {path: [min(one["milliseconds"]) for one in pair] for path, pair in found.items()}
        low, high = min(map(min, best.values())) / 1.5, max(map(max, best.values())) * 1.5
        for label, same, colour in (("shows the same", True, BLUE), ("shows more", False, ORANGE)):
            chosen = [
                best[path] for path, (small, large) in found.items() if (large["size"] <= SAME * small["size"]) is same
            ]
            axes.plot(*zip(*chosen, strict=True), "o", color=colour, label=label, alpha=0.8)
        for times, text in ((1, "as fast"), (3, "3 times as long")):
            axes.plot([low, high], [times * low, times * high], color=GREY, linestyle="-" if times == 1 else "--")
            axes.annotate(text, (high / times, high), ha="right", va="top", color=GREY)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        axes.set(xlabel="ms on the small database", ylabel=f"ms on one {result.parameters['times smaller']} x as large")
        axes.set_title(NAMES[kind], loc="left")
        axes.legend(frameon=False, loc="lower right")
    return figure


def _requests(result: Result) -> Figure:
    series = next(iter(result.series.values())) if "10" not in result.series else result.series["10"]
    rows = [
        (name, 1000 * float(median(one["processor"] / one["answers"] for one in rounds)), GREY if "," in name else BLUE)
        for name, rounds in series.items()
    ]
    figure, axes = plt.subplots(figsize=(7, 2.4))
    _bars(axes, rows, "milliseconds of the processor for a request (median)", "ms")
    axes.set_title("Requests", loc="left")
    return figure


def _latency(result: Result) -> Figure:
    parts = (("engine", "its engine", BLUE), ("job", "its job", GREY), ("told", "until told", ORANGE))
    rows = [
        (f"{name}, {label}", float(median(waited[part] for waited in waits)), colour)
        for name, waits in result.series.items()
        for part, label, colour in parts
    ]
    figure, axes = plt.subplots(figsize=(7, 3.1))
    _bars(axes, rows, "seconds (median)", "s")
    axes.set_title(f"Waiting for a composition: {_what(result)}", loc="left")
    return figure


def _serving(result: Result) -> Figure:
    rows = [
        (name, _of(samples), GREY if name.startswith("stored") else BLUE)
        for name, samples in result.series.items()
        if name.endswith(("to nowhere", "hf_hub"))
    ]
    figure, axes = plt.subplots(figsize=(7, 2.4))
    _bars(axes, rows, "seconds for the whole file (median)", "s")
    axes.set_title(f"Reading a file: {_what(result)}", loc="left")
    return figure


def _mergekit(result: Result) -> Figure:
    series = result.series
    names = [("mergekit", ORANGE), ("diff of all, compose", BLUE), ("compose", BLUE)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 2.2), layout="constrained")
    times = [(name, _of(series[name], "wall"), colour) for name, colour in names]
    _bars(left, times, "seconds of the whole process (median)", "s")
    peaks = [(name, _of(series[name], "peak") / 1e6, colour) for name, colour in names]
    _bars(right, peaks, "peak memory, MB", "MB")
    right.set_yticks([])
    left.set_title(_what(result), loc="left")
    return figure


def _scaling(result: Result) -> Figure:
    series = result.series
    figure, ((one, two), (three, four)) = plt.subplots(2, 2, figsize=(10, 6.4), layout="constrained", sharex="col")
    imports = _of(series["imports"], "peak") / 1e6
    for name, reading, colour in (("diff", "cat base tuned", ORANGE), ("compose", "cat base patches", BLUE)):
        sizes = [key.split(":")[0] for key in series if key.endswith(f": {name}") and "patches" not in key]
        x = [llama(size).parameters / 1e6 for size in sizes]
        one.plot(x, [_of(series[f"{size}: {name}"]) for size in sizes], "o-", color=colour, label=name)
        one.plot(x, [_of(series[f"{size}: {reading}"]) for size in sizes], "o--", color=colour, mfc="w", label=reading)
        three.plot(x, [_of(series[f"{size}: {name}"], "peak") / 1e6 for size in sizes], "o-", color=colour, label=name)
    counts = [int(key.split()[0]) for key in series if key.endswith("patches: compose")]
    two.plot(counts, [_of(series[f"{count} patches: compose"]) for count in counts], "o-", color=BLUE, label="compose")
    read = [_of(series[f"{count} patches: cat"]) for count in counts]
    two.plot(counts, read, "o--", color=BLUE, mfc="w", label="cat patches")
    four.plot(
        counts, [_of(series[f"{n} patches: compose"], "peak") / 1e6 for n in counts], "o-", color=BLUE, label="compose"
    )
    for axes in (three, four):
        axes.axhline(imports, color=GREY, linestyle=":", label="imports alone")
        axes.set_ylabel("peak memory, MB")
    three.set_xlabel(f"millions of weights ({result.parameters['patches']} patches)")
    four.set_xlabel(f"patches ({result.parameters['params']})")
    four.set_xticks([count for count in counts if count == 1 or count >= max(counts) / 8])
    for axes in (one, two):
        axes.set_ylabel("seconds (median)")
    for axes in (one, two, three, four):
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
    return figure


def _gpu(result: Result) -> Figure:
    series = result.series
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 2.8), layout="constrained")
    names = [
        ("cat patches, cp base", GREY),
        ("GPU", BLUE),
        ("GPU, hashing", BLUE),
        ("GPU, hashing, all there", BLUE),
        ("CPU", ORANGE),
        ("CPU, hashing", ORANGE),
    ]
    shown = [(name, _of(series[name]), colour) for name, colour in names if name in series]  # older results lack some
    _bars(left, shown, "seconds (median)", "s")
    left.set_title(_what(result), loc="left")
    speeds = [
        (name, float(speed) / 1e9, GREY if name == "device copy" else GREEN)
        for name, speed in series["numbers"].items()
    ]
    _bars(middle, speeds, "on the device, GB/s read and written (median)", "GB/s")
    phases = [(name, float(spent), GREEN if name == "kernel" else GREY) for name, spent in series["phases"].items()]
    _bars(right, phases, "seconds in each phase, hashing; they overlap", "s")
    return figure


def _kernels(result: Result) -> Figure:
    colours = {"copy": GREY, "host": ORANGE}
    speeds = [
        (name, float(speed) / 1e9, colours.get(name.rpartition(": ")[2], GREEN))
        for name, speed in result.series["numbers"].items()
    ]
    figure, axes = plt.subplots(figsize=(9, 0.25 * len(speeds) + 1), layout="constrained")
    _bars(axes, speeds, "on the device, GB/s read and written at least (median)", "GB/s")
    return figure


def _size(result: Result) -> Figure:
    points = sorted(result.series["points"], key=lambda point: float(point["density"]))
    x = [100 * point["density"] for point in points]
    figure, axes = plt.subplots(figsize=(7, 4))
    for key, label, colour, line in (
        ("indices", "int32 indices", ORANGE, "s--"),
        ("ours", "patch file", BLUE, "o-"),
        ("bound", "entropy bound", GREY, ":"),
    ):
        axes.plot(x, [point[key] for point in points], line, color=colour, label=label, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("weights that the patch keeps, % (log)")
    axes.set_ylabel("bytes per weight of the model (log)")
    axes.set_title(f"Patch size, {result.parameters['dtype']} values", loc="left")
    axes.legend(frameon=False)
    return figure


def _capacity(result: Result) -> Figure:
    (found,) = list(result.series.values())[-1]
    parts = (
        ("base on disk", "the base, on disk", BLUE),
        ("patches on disk", "its patches", BLUE),
        ("composed on disk", "a composition", BLUE),
        ("database", "the database", BLUE),
        ("server", "server and worker, in memory", ORANGE),
        ("jobs", "processes of jobs", ORANGE),
    )
    figure, axes = plt.subplots(figsize=(7, 2.8))
    _bars(axes, [(label, found[name] / 1e6, colour) for name, label, colour in parts], "MB", "MB")
    axes.set_title(f"A registry with one model: {_what(result)}", loc="left")
    return figure


PLOTS = {
    "compose": _compose,
    "ranges": _ranges,
    "diff": _diff,
    "conflicts": _conflicts,
    "mergekit": _mergekit,
    "scaling": _scaling,
    "kernels": _kernels,
    "gpu": _gpu,
    "size": _size,
    "pages": _pages,
    "database": _database,
    "requests": _requests,
    "latency": _latency,
    "serving": _serving,
    "capacity": _capacity,
}

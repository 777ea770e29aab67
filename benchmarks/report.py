"""Write README.md and the plots from results/*.json; it says only what stands there."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.commands import COMMANDS
from benchmarks.results import HERE, RESULTS, Bar, Result, bars_table, load

NAMES = {
    "compose": "Composing against the floor",
    "ranges": "Ranges of a composed model",
    "diff": "Diff against reading",
    "conflicts": "Comparing patches",
    "mergekit": "Against mergekit",
    "scaling": "Scaling",
    "kernels": "The kernels of a GPU",
    "live": "A live model on a GPU",
    "gpu": "On a GPU",
    "size": "Size of patches",
    "pages": "Web pages",
    "database": "A large database",
    "requests": "Requests a second",
    "latency": "Waiting for a composition",
    "serving": "Reading what is on no disk",
    "capacity": "What a registry takes",
}
HEAD = """\
<!-- Written by `python -m benchmarks report` from results/*.json; change those by measuring again. -->
# Benchmarks

One command for each comparison. Everything is measured on synthetic models of the shape of a Llama, which the command
makes, and what is compared is measured in turn in the same run: compare ratios, and distrust seconds.

    pip install -c constraints.txt -e '.[bench]'
    python -m benchmarks compose          # ranges, diff, conflicts, mergekit, kernels, gpu, size, ...; see --help
    python -m benchmarks all              # everything, and this page
    python -m benchmarks report           # this page alone

Try `--params 20M --results DIR` first, which leaves these results alone. Models and patches go to the temporary folder
(`--work DIR` for elsewhere, `--keep` to use them again). Times are medians over rounds; MB are 10^6 bytes. Numbers of
one table come from one run.

How well composed models do is another question, with a command and a report of its own: [quality](quality/README.md).
What the kernels of a GPU should take, counted from their machine code, and what to run first where there is a GPU, has
a page of its own: [gpu](gpu/README.md).
"""


def write(folder: Path = HERE, results: Path = RESULTS) -> None:
    """Write README.md and plots/<name>.svg into a folder."""
    from benchmarks.plot import draw  # matplotlib is an extra, and nothing else needs it

    found = {name: load(name, results) for name in NAMES}
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    for name, result in found.items():
        (plots / f"{name}.svg").unlink(missing_ok=True)
        if result is not None:
            draw(result, plots / f"{name}.svg")
    (folder / "README.md").write_text(readme(found), "utf-8")


def readme(found: dict[str, Result | None]) -> str:
    """Return the text of README.md."""
    parts = [HEAD]
    bars = [bar for result in found.values() if result for bar in result.bars]
    if bars:
        parts += ["## Bars", _bars(bars)]
    machines = [result.machine for result in found.values() if result]
    shared = bool(machines) and all(machine == machines[0] for machine in machines)
    if shared:
        parts += ["## Machine", _machine(machines[0])]
    for name, title in NAMES.items():
        parts += [f"## {title}", _about(name)]
        result = found[name]
        if result is None:
            parts.append("Not measured yet.")
            continue
        parts.append(f"![{title}](plots/{name}.svg)")
        parts += [table.markdown() for table in result.tables]
        parts += result.notes
        parameters = ", ".join(f"{key} {text}" for key, text in result.parameters.items())
        parts.append(f"Measured {result.date}: {parameters}.")
        if not shared:
            parts.append(_machine(result.machine))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _bars(bars: list[Bar]) -> str:
    table = bars_table(bars).markdown().split("\n", 2)[2]
    judged = [bar for bar in bars if bar.judged]
    reached = sum(bar.reached for bar in judged)
    text = f"{reached} of {len(judged)} that were measured as asked are reached."
    if len(judged) < len(bars):
        text += " `other setup`: another model, dtype, mask, number of patches or of cores than the bar is about."
    return f"{text}\n\n{table}"


def _about(name: str) -> str:
    """Return what the command's own text says of it."""
    return (COMMANDS[name].__doc__ or "").strip()


def _machine(machine: Mapping[str, str]) -> str:
    """Return a list of what is known of a machine."""
    text = "\n".join(f"- {key}: {text}" for key, text in machine.items())
    return text + ("\n\nThe star: with changes that were not committed." if machine["revision"].endswith("*") else "")

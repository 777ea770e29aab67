"""README.md and figures/ from results.json; what was concluded stands in findings.md, written by people."""

from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.quality import figures
from benchmarks.quality.minilm import report as minilm_report
from benchmarks.quality.minilm import results as minilm_results
from benchmarks.quality.results import Results, load
from benchmarks.quality.sections import SECTIONS
from benchmarks.results import Table

TOLD = ("processor", "cores", "memory", "system", "python", "revision")
PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "scipy", "numba")


def write(folder: Path) -> None:
    """Write the report of the results in a folder."""
    results = load(folder / "results.json")
    real = minilm_results.kinds(results)
    figures.draw(results, folder / "figures")
    findings = folder / "findings.md"
    said = findings.read_text("utf-8").strip() if findings.exists() else "Nothing is concluded from this run."
    parts = [HEAD, *([minilm_report.answers(results)] if real else []), said]
    parts += [what(results), *(section(results) for section in SECTIONS)] if results.kinds else []
    parts += [minilm_report.section(results)] if real else []
    parts += [how(results)]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def versions() -> dict[str, str]:
    """Return the versions of what computes the results."""
    return {package: version(package).partition("+")[0] for package in PACKAGES}


HEAD = """# Does it hold?

<!-- Written by `python -m benchmarks.quality`; edit findings.md, report.py and sections.py instead. -->"""


def what(results: Results) -> str:
    """Say what was trained."""
    rows = []
    for kind in results.kinds:
        worlds, told = results.worlds(kind), results.kind(kind)
        tuned = [np.mean([world["scores"]["tuned"][task] for task in told["tasks"]]) for world in worlds]
        untuned = [np.mean([world["scores"]["untuned"][task] for task in told["tasks"]]) for world in worlds]
        weights = worlds[0]["scores"]["weights"]
        rows.append(
            [
                f"{kind} ({told['measure']})",
                f"{weights / 1e6:.2f} M",
                str(len(told["tasks"])),
                str(len(told["held_out"])),
                f"{np.mean(untuned):.3f}",
                f"{np.mean(tuned):.3f}",
            ]
        )
    columns = ["kind (score)", "weights", "tasks", "held out", "base", "fine-tuned"]
    text = Table("Mean score over tasks, on the test part", columns, rows).markdown()
    tasks = "\n".join(
        f"* {kind}: {', '.join(results.kind(kind)['tasks'])}; held out {', '.join(results.kind(kind)['held_out'])}."
        for kind in results.kinds
    )
    same = [
        found["same"] for kind in results.kinds for world in results.worlds(kind) for found in world["compositions"]
    ]
    orders, bases = len(results.orders(results.kinds[0])), results.kind(results.kinds[0])["worlds"]
    return f"""## What was trained

One small transformer for each kind of data, trained on a broad mixture, and fine-tuned on every task with AdamW. All
models are Hugging Face folders; every patch was pushed to a registry, checked by it and downloaded again. Of
{len(same)} recipes that were also composed by the registry, pulled and loaded with `from_pretrained`, {sum(same)} had
the very weights that are evaluated here.

{text}

{tasks}

A normalised score is score / score of the task's own fine-tuned model, so fine-tuned is 1. Settings are chosen on the
validation part, numbers are of the test part. ± is half of a 95 % interval over {orders} orders of adding tasks, of
{bases} bases, each with a cut of the data, first weights and fine-tunings of its own. With all tasks, the orders of one
base hold the same set, so that intervals are too narrow there."""


def how(results: Results) -> str:
    """Say how to do it again, and what it took."""
    document, machine = results.document, results.document["machine"]
    known = [f"{name} {machine[name]}" for name in (*TOLD, *PACKAGES) if name in machine]
    steps: dict[str, float] = {}
    for world in document["worlds"]:
        for name, seconds in world["seconds"].items():
            steps[name] = steps.get(name, 0.0) + seconds
    spent = ", ".join(
        f"{name} {seconds / 60:.0f}" for name, seconds in sorted(steps.items(), key=lambda step: -step[1])
    )
    return f"""## Again

    pip install -c constraints.txt -e '.[demo,bench]'
    python -m benchmarks.quality            # all of it; --quick for a little of everything
    python -m benchmarks.quality --kinds minilm     # the real base alone; its texts need Debian, pip and npm

`--collect` reports what an unfinished run has found so far.

{", ".join(known)}.

{document["hours"]:.2f} hours from start to report, interrupted runs included. Minutes of one processor, by step,
of all worlds: {spent}; together {sum(steps.values()) / 60:.0f}.

World w cuts the data, sets the base's first weights and draws its batches with seed w, fine-tunes task t with seed
1000 w + t, and adds tasks in the orders of NumPy's default_rng([w, order]). Other processors may round otherwise while
they train; two of AMD (families 25 and 26) gave the same bits on the real base, in the two patches that were compared.
Texts are those of the Python and the packages that are installed."""

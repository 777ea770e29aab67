"""The report of the demo: its numbers, and the tables that show them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.terminal.console import size


@dataclass(frozen=True)
class DemoPatch:
    """A fine-tuned model and the patch made from it; sizes in bytes, accuracies in percent by task."""

    task: str
    author: str
    number: int
    sha256: str
    size: int
    model_size: int
    nnz: int
    density: float
    accuracy: dict[str, float]


@dataclass(frozen=True)
class DemoMerge:
    """A subset composed at the registry, and plain task arithmetic on the same models at the same alpha."""

    alpha: str
    patches: list[int]
    tasks: list[str]
    recipe: str
    weights_digest: str
    verified: bool
    composed_here: str
    device: str
    accuracy: dict[str, float]
    task_arithmetic: dict[str, float]


@dataclass(frozen=True)
class DemoOutcome:
    """All numbers of the demo."""

    model: str
    base: str
    parameters: int
    base_size: int
    test_images: int
    base_accuracy: dict[str, float]
    patches: list[DemoPatch]
    compositions: list[DemoMerge]
    seconds: dict[str, float]


def show(report: DemoOutcome) -> None:
    """Print the tables."""
    from rich.console import Console as RichConsole
    from rich.table import Table

    out = RichConsole(highlight=False)
    upright = next(iter(report.base_accuracy))
    for alpha in dict.fromkeys(merge.alpha for merge in report.compositions):
        merges = [merge for merge in report.compositions if merge.alpha == alpha]
        table = Table(
            title=f"Accuracy in % on {report.test_images} digits that no model was trained on; alpha {alpha}",
            caption="sum: plain task arithmetic; crumbs: breadcrumbs, as pulled",
        )
        table.add_column("task")
        table.add_column("base", justify="right")
        table.add_column("tuned", justify="right")
        for merge in merges:
            table.add_column(f"sum\nof {len(merge.patches)}", justify="right")
            table.add_column(f"crumbs\nof {len(merge.patches)}", justify="right")
        for patch in report.patches:
            cells = [_percent(report.base_accuracy, [patch.task]), _percent(patch.accuracy, [patch.task])]
            for merge in merges:
                tasks = [patch.task] if patch.task in merge.tasks else []
                cells += [_percent(merge.task_arithmetic, tasks), _percent(merge.accuracy, tasks)]
            table.add_row(patch.task, *cells)
        table.add_section()
        averages = ["", ""]
        for merge in merges:
            averages += [_percent(merge.task_arithmetic, merge.tasks), _percent(merge.accuracy, merge.tasks)]
        table.add_row("mean of these", *averages)
        kept = [_percent(report.base_accuracy, [upright]), ""]
        for merge in merges:
            kept += [_percent(merge.task_arithmetic, [upright]), _percent(merge.accuracy, [upright])]
        table.add_row(upright, *kept)
        out.print(table)
    table = Table(title=f"Patches of {report.model}; a whole model is {size(report.base_size)}")
    for name in ("#", "author", "task", "changes", "size", "of the model"):
        table.add_column(name, justify="left" if name in ("author", "task") else "right")
    for patch in report.patches:
        table.add_row(
            f"#{patch.number}", patch.author, patch.task, f"{patch.density:.1%}", size(patch.size),
            f"{patch.size / patch.model_size:.1%}",
        )  # fmt: skip
    out.print(table)
    out.print(
        f"{len(report.compositions)} compositions: what was pulled has the registry's weights digest, "
        "and composing the same patches here gives the same digest.",
        f"Took {' + '.join(f'{seconds:.0f} s {name}' for name, seconds in report.seconds.items() if name != 'all')}"
        f" = {report.seconds['all']:.0f} s.",
        sep="\n",
    )


def _percent(accuracy: Mapping[str, float], tasks: Sequence[str]) -> str:
    return f"{sum(accuracy[task] for task in tasks) / len(tasks):.0f}" if tasks else ""

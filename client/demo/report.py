"""The report of the demo: its numbers, its table, and the sentences that say what came out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.terminal.console import size
from client.trials.searching import Setting

MEAN = "mean"
WAYS = {
    "base": "base",
    "fine_tuned": "fine-tuned",
    "average": "average",
    "plain_sum": "plain sum",
    "composed": "composed, auto",
    "composed_tuned": "composed, tuned",
}
"""The ways to have answers: their names, and their heads in the table."""


@dataclass(frozen=True)
class DemoBase:
    """The base as the registry has it: its weights digest, number of weights, size of the weight file in bytes."""

    model: str
    weights_digest: str
    parameters: int
    size: int


@dataclass(frozen=True)
class DemoPatch:
    """A patch, and the fine-tuned model that it was made from; sizes in bytes."""

    task: str
    author: str
    number: int
    sha256: str
    size: int
    model_size: int
    nnz: int
    density: float


@dataclass(frozen=True)
class DemoMerge:
    """A recipe that was composed at the registry, pulled, and composed here as well; `patches` is number -> weight."""

    alpha: str
    patches: Mapping[int, str]
    recipe: str
    weights_digest: str
    composed_here: str
    device: str


@dataclass(frozen=True)
class DemoOutcome:
    """All numbers of the demo.

    Args:
        base: The model that all start from.
        images: Digits of each part: train, validation, test.
        tasks: Names of the tasks.
        digit: The question that is no task: what the base was trained for.
        patches: One for each task.
        merges: By name of their way.
        accuracy: On the test part, in percent: by way (see `WAYS`) and question; `mean` is over the tasks.
        chosen: Alpha and weights, by way, where they were chosen on the validation part.
        tried: From how many models.
        margin: Two standard errors of the difference between `composed_tuned` and `plain_sum`, in points.
        seconds: By part of the demo.
    """

    base: DemoBase
    images: Mapping[str, int]
    tasks: Sequence[str]
    digit: str
    patches: Sequence[DemoPatch]
    merges: Mapping[str, DemoMerge]
    accuracy: Mapping[str, Mapping[str, float]]
    chosen: Mapping[str, Setting]
    tried: Mapping[str, int]
    margin: float
    seconds: Mapping[str, float]


def sentences(outcome: DemoOutcome) -> list[str]:
    """Return what came out, in words that follow from the numbers alone."""
    return [_gain(outcome), _against_whole(outcome), _kept(outcome), _size(outcome)]


def _gain(outcome: DemoOutcome) -> str:
    base, own, auto, tuned = (
        outcome.accuracy[way][MEAN] for way in ("base", "fine_tuned", "composed", "composed_tuned")
    )
    count = len(outcome.patches)
    start = (
        f"The base, which was taught none of the questions, gets {base:.0f} % right; {count} fine-tuned models, each "
        f"asked its own, get {own:.0f} %."
    )
    one = f"ne model composed of {count} patches, with alpha and weights tuned on validation data, gets {tuned:.0f} %"
    by_auto = f"with alpha auto, which sees no data, {auto:.0f} %"
    if tuned <= base:
        return f"{start} Composing did not help: o{one}; {by_auto}."
    share = f", which is {100 * (tuned - base) / (own - base):.0f} % of the gain" if own > base else ""
    return f"{start} O{one}{share}; {by_auto}."


def _against_whole(outcome: DemoOutcome) -> str:
    plain, average, tuned = (outcome.accuracy[way][MEAN] for way in ("plain_sum", "average", "composed_tuned"))
    ahead = tuned - plain
    if abs(ahead) <= outcome.margin:
        found = f"no difference that {outcome.images['test']} digits can show"
    else:
        found = f"the patches are {'ahead' if ahead > 0 else 'behind'}, by more than chance explains"
    return (
        f"The plain sum of all that fine-tuning changed, tuned in the same way, gets {plain:.0f} %: {found} "
        f"({ahead:+.1f} ± {outcome.margin:.1f} points). The average of the models gets {average:.0f} %."
    )


def _kept(outcome: DemoOutcome) -> str:
    base, plain, tuned = (outcome.accuracy[way][outcome.digit] for way in ("base", "plain_sum", "composed_tuned"))
    return (
        f"Which digit it is, all that the base was trained for, it gets right in {base:.0f} %; the tuned composition "
        f"still does in {tuned:.0f} %, the plain sum in {plain:.0f} %."
    )


def _size(outcome: DemoOutcome) -> str:
    models = sum(patch.model_size for patch in outcome.patches)
    patches = sum(patch.size for patch in outcome.patches)
    return f"The patches are {size(patches)}, the models {size(models)}: {models / patches:.1f} times as much."


def moved(outcome: DemoOutcome) -> dict[str, str]:
    """Return what goes from contributors to somebody who has the base, by way, for people."""

    def total(way: str, sizes: Sequence[int]) -> str:
        weights = outcome.chosen[way].weights if way in outcome.chosen else ("1",) * len(sizes)
        return size(sum(one for one, weight in zip(sizes, weights, strict=True) if weight != "0"))

    models, patches = [one.model_size for one in outcome.patches], [one.size for one in outcome.patches]
    whole = {way: total(way, models) for way in ("fine_tuned", "average", "plain_sum")}
    return {"base": "-", **whole, **{way: total(way, patches) for way in ("composed", "composed_tuned")}}


def rows(outcome: DemoOutcome) -> list[tuple[str, list[str]]]:
    """Return the rows of the table: a name, and a cell for each of `WAYS`."""
    questions = (*outcome.tasks, MEAN, outcome.digit)
    keep = {**dict.fromkeys(WAYS, "1"), "fine_tuned": str(len(outcome.patches))}
    sizes = moved(outcome)
    return [
        *((name, [f"{outcome.accuracy[way][name]:.0f}" for way in WAYS]) for name in questions),
        ("models", [keep[way] for way in WAYS]),
        ("bytes moved", [sizes[way] for way in WAYS]),
    ]


def show(outcome: DemoOutcome) -> None:
    """Print table and sentences."""
    from rich.console import Console as RichConsole
    from rich.table import Table

    out = RichConsole(highlight=False)
    table = Table(
        title=f"Right answers in %, about {outcome.images['test']} digits that nothing was trained or chosen on"
    )
    table.add_column("question")
    for head in WAYS.values():
        table.add_column(head.replace(" ", "\n"), justify="right")
    for name, cells in rows(outcome):
        if name in (MEAN, outcome.digit, "models"):
            table.add_section()
        table.add_row(name, *cells, style="bold" if name == MEAN else None)
    out.print(table)
    parts = (f"{seconds:.0f} s {name}" for name, seconds in outcome.seconds.items() if name != "all")
    out.print(
        *sentences(outcome),
        "Both models as pulled have the registry's weights digest, and so has what the same recipes give here.",
        f"Took {' + '.join(parts)} = {outcome.seconds['all']:.0f} s.",
        sep="\n",
    )

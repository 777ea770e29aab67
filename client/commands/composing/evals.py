"""eval add, run, list, compare: numbers that were measured of the base, patches, releases and recipes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.composing.trials import Device, Keep
from client.commands.composing.tuning import COMMAND, RunsCommand
from client.commands.options import Json, Model, Quiet, connect
from client.terminal.console import Console, plain
from client.terminal.evaluations import show_comparison, show_evaluations, show_recorded

if TYPE_CHECKING:
    from client.terminal.spreadsheets import Cell
    from client.trials.harnesses import Choice, Format
    from registry.schemas import ComparedMetric, Evaluation

OF = "NS/NAME@REF|NS/NAME#N[.R]"
CSV_HEADS = (
    *("subject", "task", "dataset", "metric", "value", "stderr", "higher_is_better", "tried"),
    *("user", "created_at", "source", "command", "id"),
)

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="[FORMAT] FILE",
        help="Results of a harness: a file of lm-eval or lighteval; which of the two is found out if you do not say.",
    ),
]
File = Annotated[Path | None, typer.Argument(metavar="[FILE]", help="The file of --from FORMAT.", show_default=False)]
Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="T", help="Like arithmetic; with --from, a glob of those to take; repeatable."),
]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metric", metavar="M", help="Like accuracy; with --from, a glob of those to take; repeatable."),
]
Dataset = Annotated[
    str | None,
    typer.Option("--dataset", metavar="D", help="Like openai/gsm8k; else as FILE says, or the task."),
]
Lower = Annotated[
    list[str] | None,
    typer.Option("--lower", metavar="M", help="With --from: a metric of which a lower value is better; repeatable."),
]
Higher = Annotated[
    list[str] | None,
    typer.Option("--higher", metavar="M", help="With --from: a metric of which a higher value is better; repeatable."),
]
LowerIsBetter = Annotated[
    bool | None,
    typer.Option(
        "--lower-is-better/--higher-is-better",
        help="Which value is better; by default what the metric's name says, lower for a loss or perplexity.",
        show_default=False,
    ),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print comma-separated values, for a spreadsheet or pandas.")]

evals = typer.Typer(
    name="eval", help="Record, list and compare evaluations.", no_args_is_help=True, rich_markup_mode=None
)


@evals.command()
def add(
    subject: Annotated[str, typer.Argument(metavar=OF, help="What was measured.", show_default=False)],
    file: File = None,
    from_: From = None,
    task: Tasks = None,
    dataset: Dataset = None,
    metric: Metrics = None,
    value: Annotated[float | None, typer.Option("--value", metavar="X", help="What was measured.")] = None,
    stderr: Annotated[
        float | None, typer.Option("--stderr", metavar="X", min=0, help="Standard error of the value.")
    ] = None,
    lower_is_better: LowerIsBetter = None,
    lower: Lower = None,
    higher: Higher = None,
    source: Annotated[str | None, typer.Option("--source", metavar="URL", help="A page about it.")] = None,
    tried: Annotated[
        int | None,
        typer.Option("--tried", metavar="N", min=1, help="How many candidates were measured to choose a recipe."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Record evaluations of a base, a patch, a version, a channel or a composed recipe.

    One number by --task, --dataset, --metric and --value; or all that a harness measured, by `--from results.json` or
    `--from lm-eval results.json`. Those are recorded together or not at all, and numbers that you have recorded before
    are not recorded again.
    """
    from client.trials.harnesses import is_higher_better

    console = Console(as_json, quiet)
    model, ref = _parse_subject(subject)
    if from_ is not None:
        if value is not None or stderr is not None:
            raise typer.BadParameter("a file has its own values; leave --value and --stderr out.")
        _refuse_lower_is_better(lower_is_better)
        _add_file(console, model, ref, (from_, file), _choice(task, metric, lower, higher, dataset), source, tried)
        return
    if file is not None:
        raise typer.BadParameter(f"say where {file} comes from with --from {file}.")
    if not (task and metric and dataset is not None and value is not None) or len(task) > 1 or len(metric) > 1:
        raise typer.BadParameter("give one --task, --dataset, --metric and --value; or a file, with --from.")
    _refuse_lower_and_higher(lower, higher)
    with connect() as client:
        evaluation = client.add_evaluation(
            model,
            ref or "base",
            task=task[0],
            dataset=dataset,
            metric=metric[0],
            value=value,
            stderr=stderr,
            higher_is_better=is_higher_better(metric[0], None if lower_is_better is None else not lower_is_better),
            source=source,
            tried=tried,
        )
    console.result(evaluation, show_evaluations([evaluation]), evaluation.subject)


def _add_file(
    console: Console,
    model: str,
    ref: str | None,
    given: tuple[str, Path | None],
    choice: "Choice",
    source: str | None,
    tried: int | None,
) -> None:
    from client.trials.harnesses import read_results

    kind, path = _parse_from(*given)
    results = read_results(Path(path), kind, choice)
    if results.not_finite:
        console.note(f"Left out, since they are not finite numbers: {', '.join(results.not_finite)}")
    with connect() as client:
        recorded = client.add_evaluations(model, ref or "base", results.scores, source=source, tried=tried)
    document = {**recorded.model_dump(mode="json"), "not_finite": results.not_finite}
    console.result(document, show_recorded(recorded.added, recorded.known), str(len(recorded.added)))


@evals.command(cls=RunsCommand)
def run(
    context: typer.Context,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="NS/NAME[@REF|#N[.R]]", help="What to measure; after --, the command to run.", show_default=False
        ),
    ],
    file: File = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="A patch on the base alone, at alpha 1; this is the default.")
    ] = False,
    together: Annotated[
        str | None, typer.Option("--with", metavar="REF", help="A patch added to this snapshot, at weight 1.")
    ] = None,
    task: Tasks = None,
    dataset: Dataset = None,
    metric: Metrics = None,
    lower_is_better: LowerIsBetter = None,
    from_: From = None,
    lower: Lower = None,
    higher: Higher = None,
    keep: Keep = None,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compose a model here, run a command on it, and record what it measures.

    NS/NAME#N is the base with patch N alone, at alpha 1; NS/NAME@REF a release, a recipe or the base. In COMMAND and
    FILE, {model} is the model's folder, as is $CRUMB_MODEL; without {model}, it is COMMAND's last argument. The last
    line that COMMAND prints is a number, as for `crumb loo`, or JSON: {"accuracy": 0.5}, or {"task": …, "dataset": …,
    "metric": …, "value": 0.5, "higher_is_better": true}, or a list of such. With --from, it is the results file that
    COMMAND writes, or a folder of such.

    Numbers with a task, their own or --task, are recorded with the command; if any is malformed, none are. Numbers
    without a task are only printed. Of losses and perplexities a lower value is better, unless it is said otherwise.
    """
    from client.trials import evaluating

    console = Console(as_json, quiet)
    model, ref = _parse_subject(subject)
    ref = ref or "main"
    if not context.meta[COMMAND]:
        raise typer.BadParameter("write the command after two dashes: -- COMMAND ARGUMENT…")
    if alone and together:
        raise typer.BadParameter("give --alone or --with, not both.")
    if together and not ref.startswith("#"):
        raise typer.BadParameter("--with is for a patch, NS/NAME#N; a snapshot is measured as it is.")
    results = None
    if from_ is not None:
        _refuse_lower_is_better(lower_is_better)
        kind, path = _parse_from(from_, file)
        results = evaluating.ResultsFile(path, kind, _choice(task, metric, lower, higher, dataset))
    elif file is not None:
        raise typer.BadParameter(f"what is {file}? Write the command after two dashes: -- COMMAND ARGUMENT…")
    elif len(task or ()) > 1 or len(metric or ()) > 1:
        raise typer.BadParameter("give --task and --metric once; more are for --from.")
    else:
        _refuse_lower_and_higher(lower, higher)
    better = None if lower_is_better is None else not lower_is_better
    names = evaluating.Names(task[0] if task else None, dataset, metric[0] if metric else None, better)
    with connect() as client:
        done = evaluating.evaluate(
            client,
            model,
            ref,
            context.meta[COMMAND],
            together=together,
            names=None if results else names,
            results=results,
            device=device,
            keep=keep,
            console=console,
        )
    document = {
        "model": model,
        "subject": done.subject,
        "scores": done.scores,
        "numbers": done.numbers,
        "recorded": done.recorded,
    }
    if done.recorded is not None:
        text = show_recorded(done.recorded.added, done.recorded.known)
    else:
        text = "\n".join(f"{plain(name)} {number!r}" for name, number in done.numbers.items())
        text += "\nNot recorded; run it again with --task NAME (and --metric, --dataset) to record it."
    measured = done.numbers or {score.metric: score.value for score in done.scores}
    console.result(document, text, "\n".join(f"{plain(name)} {number!r}" for name, number in measured.items()))


@evals.command(name="list")
def list_evaluations(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="NS/NAME[@REF|#N[.R]]", help="A model, a snapshot of it, or a patch.", show_default=False
        ),
    ],
    as_csv: Csv = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the evaluations of a model, a snapshot or a patch."""
    from client.terminal.spreadsheets import write_csv

    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both.")
    model, ref = _parse_subject(subject)
    with connect() as client:
        if as_csv:
            rows = ([getattr(row, head) for head in CSV_HEADS] for row in client.evaluations(model, ref))
            write_csv(CSV_HEADS, rows)
            return
        evaluations = list(client.evaluations(model, ref))
    text = show_evaluations(evaluations) if evaluations else f"There are no evaluations of {subject} yet."
    brief = "\n".join(f"{row.subject} {plain(row.dataset)}:{plain(row.metric)} {row.value!r}" for row in evaluations)
    Console(as_json, quiet).result(evaluations, text, brief)


@evals.command()
def compare(
    model: Model,
    refs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[N[.R]|REF]…",
            help="Patches, versions, channels, recipes; those that were measured last if you name none.",
            show_default=False,
        ),
    ] = None,
    as_csv: Csv = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare evaluations of the base, of patches alone, of recipes and releases, metric by metric.

    Of each, the newest evaluation counts; a release has those of its recipe, too. The best of a line is marked *.
    """
    from client.terminal.spreadsheets import write_csv

    if as_csv and as_json:
        raise typer.BadParameter("give --csv or --json, not both.")
    with connect() as client:
        found = client.compare_evaluations(model, refs or ())
    if as_csv:
        columns = [name for subject in found.subjects for name in (subject.ref, f"{subject.ref} stderr")]
        rows = ([*_name(row), *(cell for one in row.evaluations for cell in _cells(one))] for row in found.metrics)
        write_csv(["task", "dataset", "metric", "higher_is_better", *columns], rows)
        return
    Console(as_json, quiet).result(found, show_comparison(model, found))


def _name(row: "ComparedMetric") -> "tuple[Cell, ...]":
    return row.task, row.dataset, row.metric, row.higher_is_better


def _cells(one: "Evaluation | None") -> "tuple[Cell, Cell]":
    return (one.value, one.stderr) if one else (None, None)


def _parse_subject(text: str) -> tuple[str, str | None]:
    """Split NS/NAME[@REF] or NS/NAME#N[.R]; the patch is kept as #N[.R]."""
    from client.terminal.addresses import check_model, parse_pulled

    return parse_pulled(text) if "@" in text or "#" in text else (check_model(text), None)


def _refuse_lower_is_better(given: bool | None) -> None:
    if given is not None:
        word = "--lower-is-better" if given else "--higher-is-better"
        raise typer.BadParameter(f"a file has many metrics; in place of {word} give --lower M or --higher M.")


def _refuse_lower_and_higher(lower: list[str] | None, higher: list[str] | None) -> None:
    if lower or higher:
        raise typer.BadParameter("--lower and --higher are for --from; give --lower-is-better or --higher-is-better.")


def _parse_from(word: str, file: Path | None) -> "tuple[Format | None, str]":
    """Return the format, if it is named, and the file of `--from [FORMAT] FILE`."""
    from client.trials.harnesses import FORMATS

    names = {name: name for name in FORMATS} | {"lm_eval": FORMATS[0]}
    if file is None and word in names:
        raise typer.BadParameter(f"name the file, too: --from {word} results.json")
    if file is None:
        return None, word
    if word not in names:
        raise typer.BadParameter(f"{word!r} is not a format; write lm-eval or lighteval, or the file alone.")
    return names[word], str(file)


def _choice(
    tasks: Sequence[str] | None,
    metrics: Sequence[str] | None,
    lower: Sequence[str] | None,
    higher: Sequence[str] | None,
    dataset: str | None,
) -> "Choice":
    from client.trials.harnesses import Choice

    return Choice(tasks or (), metrics or (), lower or (), higher or (), dataset)

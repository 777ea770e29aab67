"""bisect, loo, blame, eval: what each patch of a model does."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Model, Quiet, connect
from client.terminal.console import Console, fields, plain, table

if TYPE_CHECKING:
    from client.trials.blame import Blame
    from registry.schemas import Evaluation

UNDECIDED = 1  # exit code: more than one suspect is left
Subject = Annotated[str, typer.Argument(metavar="NS/NAME@REF", help="The model.", show_default=False)]
Command = Annotated[
    list[str], typer.Argument(metavar="-- COMMAND…", help="What to run; {model} is the folder.", show_default=False)
]
Keep = Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="Keep the models that are composed here.")]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cpu|cuda", help="Where to compose; the default leaves a GPU to your command."
    ),
]
Task = Annotated[str | None, typer.Option("--task", metavar="T", help="Task of scores that do not name theirs.")]
Dataset = Annotated[
    str | None, typer.Option("--dataset", metavar="D", help="Dataset of scores that do not name theirs.")
]

evals = typer.Typer(name="eval", help="Record and list evaluations.", no_args_is_help=True, rich_markup_mode=None)


def bisect(
    model: Model,
    command: Command,
    good: Annotated[str, typer.Option("--good", metavar="REF", help="A good snapshot, like 1.0.0.")],
    bad: Annotated[str, typer.Option("--bad", metavar="REF", help="A bad snapshot, like 1.1.0.")],
    no_verify_ends: Annotated[
        bool, typer.Option("--no-verify-ends", help="Do not check first that good is good and bad is bad.")
    ] = False,
    keep: Keep = None,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the patch that made a model bad.

    Composes models between the two here, about log2 of the number of changed patches, and runs COMMAND on each. In
    COMMAND, {model} and $CRUMB_MODEL are the model's folder; without {model}, the folder is the last argument.

    Exit codes of COMMAND: 0 good; 125 cannot be judged; any other up to 127 bad; all others end the search. crumb exits
    with 1 if several suspects are left because some models could not be judged.

    Models are composed in $TMPDIR, one after another in the same folder, which is removed at the end.
    """
    from client.terminal.addresses import parse_snapshot
    from client.trials import bisect as bisects

    console = Console(as_json, quiet)
    _, good = parse_snapshot(f"{model}@{good}")
    _, bad = parse_snapshot(f"{model}@{bad}")
    with connect() as client:
        bisection = bisects.bisect(
            client,
            model,
            good,
            bad,
            command,
            verify_ends=not no_verify_ends,
            keep=keep,
            device=device,
            console=console,
        )
    suspects = [f"#{change.number} {plain(change.title)} ({change.words})" for change in bisection.suspects]
    if bisection.found:
        text = f"The first bad change is {suspects[0]}."
    else:
        text = "\n".join(["Some models could not be judged; the first bad change is one of", *suspects])
    text += f"\n{len(bisection.steps)} models were tried for {len(bisection.changes)} changes."
    document = {
        "model": model,
        "good": good,
        "bad": bad,
        "found": bisection.found,
        "suspects": [change.document() for change in bisection.suspects],
        "changes": [change.document() for change in bisection.changes],
        "steps": [asdict(step) for step in bisection.steps],
    }
    console.result(document, text, "\n".join(f"#{change.number}" for change in bisection.suspects))
    if not bisection.found:
        raise typer.Exit(UNDECIDED)


def loo(
    snapshot: Subject,
    command: Command,
    keep: Keep = None,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Leave one out: score a model without each of its patches.

    Composes the models here, and runs COMMAND on each. In COMMAND, {model} and $CRUMB_MODEL are the model's folder;
    without {model}, the folder is the last argument. The last line that COMMAND prints is the score: a number, or a
    JSON object with it as "value".
    """
    from client.terminal.addresses import parse_snapshot
    from client.trials import scores

    console = Console(as_json, quiet)
    model, ref = parse_snapshot(snapshot)
    with connect() as client:
        result = scores.leave_one_out(client, model, ref, command, keep=keep, device=device, console=console)
    rows = [("none", "", f"{result.score:.6g}", "", "")]
    for row in result.without:
        rows.append((f"#{row.number}", row.scale, f"{row.score:.6g}", f"{row.difference:+.6g}", plain(row.title)))
    text = table(("without", "scale", "score", "it adds", "title"), rows, right=(0, 1, 2, 3))
    brief = "\n".join(f"#{row.number} {row.difference!r}" for row in result.without)
    console.result({"model": model, "ref": ref, **asdict(result)}, text, brief)


def blame(
    snapshot: Subject,
    place: Annotated[
        str | None, typer.Argument(metavar="[TENSOR[i,j]]", help="A weight or a tensor.", show_default=False)
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show which patches changed a weight, a tensor or a model.

    For one weight: what each patch adds. For more: each patch's share of the energy, the sum of squares of its changes.
    """
    from client.terminal.addresses import parse_snapshot
    from client.trials import blame as blames

    console = Console(as_json, quiet)
    model, ref = parse_snapshot(snapshot)
    with connect() as client:
        result = blames.blame(client, model, ref, place, console=console)
    brief = "\n".join(f"#{row.number} {row.amount!r} {row.share!r}" for row in result.patches)
    console.result(asdict(result), _blame_text(result), brief)


@evals.command()
def add(
    subject: Annotated[
        str, typer.Argument(metavar="NS/NAME@REF|NS/NAME#N[.R]", help="What was measured.", show_default=False)
    ],
    task: Annotated[str, typer.Option("--task", metavar="T", help="Like arithmetic.")],
    dataset: Annotated[str, typer.Option("--dataset", metavar="D", help="Like openai/gsm8k.")],
    metric: Annotated[str, typer.Option("--metric", metavar="M", help="Like accuracy.")],
    value: Annotated[float, typer.Option("--value", metavar="X", help="What was measured.")],
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="For a loss.")] = False,
    source: Annotated[str | None, typer.Option("--source", metavar="URL", help="A page about it.")] = None,
    tried: Annotated[
        int | None,
        typer.Option("--tried", metavar="N", min=1, help="How many candidates were measured to choose a recipe."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Record one evaluation of a base, a patch, a version, a channel or a composed recipe."""
    model, ref = _parse_subject(subject)
    with connect() as client:
        evaluation = client.add_evaluation(
            model,
            ref or "base",
            task=task,
            dataset=dataset,
            metric=metric,
            value=value,
            higher_is_better=not lower_is_better,
            source=source,
            tried=tried,
        )
    Console(as_json, quiet).result(evaluation, _evaluations_text([evaluation]), evaluation.subject)


@evals.command()
def run(
    snapshot: Subject,
    command: Command,
    task: Task = None,
    dataset: Dataset = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pull a model, run a command on it, and record its scores.

    In COMMAND, {model} and $CRUMB_MODEL are the model's folder; without {model}, the folder is the last argument.
    COMMAND prints JSON: {"task": …, "dataset": …, "metric": …, "value": 0.5, "higher_is_better": true}, a list of
    such, or {"accuracy": 0.5} with --task and --dataset. If any score is malformed, none are recorded.
    """
    from client.terminal.addresses import parse_snapshot
    from client.trials import scores

    console = Console(as_json, quiet)
    model, ref = parse_snapshot(snapshot)
    with connect() as client:
        evaluations = scores.evaluate(client, model, ref, command, task=task, dataset=dataset, console=console)
    brief = "\n".join(f"{plain(row.metric)} {row.value!r}" for row in evaluations)
    console.result(evaluations, _evaluations_text(evaluations), brief)


@evals.command(name="list")
def list_evaluations(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="NS/NAME[@REF|#N[.R]]", help="A model, a snapshot of it, or a patch.", show_default=False
        ),
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the evaluations of a model, a snapshot or a patch."""
    model, ref = _parse_subject(subject)
    with connect() as client:
        evaluations = list(client.evaluations(model, ref))
    text = _evaluations_text(evaluations) if evaluations else f"There are no evaluations of {subject} yet."
    brief = "\n".join(f"{row.subject} {plain(row.dataset)}:{plain(row.metric)} {row.value!r}" for row in evaluations)
    Console(as_json, quiet).result(evaluations, text, brief)


def _parse_subject(text: str) -> tuple[str, str | None]:
    """Split NS/NAME[@REF] or NS/NAME#N[.R]; the patch is kept as #N[.R]."""
    from client.terminal.addresses import check_model, parse_snapshot

    if match := re.fullmatch(r"([^#@]+)(#[0-9]{1,9}(?:\.[0-9]{1,9})?)", text):
        return check_model(match[1]), match[2]
    return parse_snapshot(text) if "@" in text else (check_model(text), None)


def _blame_text(result: "Blame") -> str:
    place = result.tensor or "the whole model"
    pairs = [("of", plain(place) + (f"[{','.join(map(str, result.index))}]" if result.index is not None else ""))]
    if result.index is not None:
        pairs += [("base", f"{result.base!r}"), ("composed", f"{result.composed!r}")]
    rows = [
        (
            f"#{row.number}",
            f"{row.amount:+.6g}" if result.index is not None else f"{row.amount:.6g}",
            f"{row.share:.1%}",
            *(() if result.index is not None else (f"{row.nnz:,}",)),
            plain(row.title),
        )
        for row in result.patches
    ]
    heads = (
        ("patch", "adds", "share", "title")
        if result.index is not None
        else ("patch", "norm", "energy", "weights", "title")
    )
    shares = table(heads, rows, right=range(len(heads) - 1)) if rows else "No patch changes it."
    return f"{fields(pairs)}\n{shares}"


def _subject_text(row: "Evaluation") -> str:
    from client.terminal.addresses import is_digest

    subject = row.subject[:12] if is_digest(row.subject) else row.subject
    return f"{subject}, chosen among {row.tried}" if row.tried else subject


def _evaluations_text(evaluations: "list[Evaluation]") -> str:
    rows = [
        (
            _subject_text(row),
            plain(row.task),
            plain(row.dataset),
            plain(row.metric),
            f"{row.value:.6g}",
            "higher" if row.higher_is_better else "lower",
            plain(row.user),
            f"{row.created_at.astimezone():%Y-%m-%d}",
        )
        for row in evaluations
    ]
    heads = ("of", "task", "dataset", "metric", "value", "better", "by", "on")
    return table(heads, rows, right=(4,))

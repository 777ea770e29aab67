"""bisect, loo, blame, eval: what a patch does."""

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
    str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compose; a GPU is left to your command.")
]
Task = Annotated[str | None, typer.Option("--task", metavar="T", help="Of what does not say its own.")]
Dataset = Annotated[str | None, typer.Option("--dataset", metavar="D", help="Of what does not say its own.")]

evals = typer.Typer(name="eval", help="Record and list what was measured.", no_args_is_help=True, rich_markup_mode=None)


def bisect(
    model: Model,
    command: Command,
    good: Annotated[str, typer.Option("--good", metavar="REF", help="A revision that is good.")],
    bad: Annotated[str, typer.Option("--bad", metavar="REF", help="A revision that is bad.")],
    no_verify_ends: Annotated[
        bool, typer.Option("--no-verify-ends", help="Do not see first that both are what you say.")
    ] = False,
    keep: Keep = None,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the patch that made a model bad.

    Composes models between the two here, for log2 of the patches in question tries, and runs COMMAND on each: in it,
    {model} is the model's folder, which is the last argument if no argument has it, and $CRUMB_MODEL. Its exit code
    says: 0 good; 125 cannot tell; any other up to 127 bad; all else ends the search. Exit code 1 when several suspects
    are left, since some could not be told.

    Models are composed in $TMPDIR and vanish after their try.
    """
    from client.terminal.addresses import parse_revision
    from client.trials import bisect as bisects

    console = Console(as_json, quiet)
    _, good = parse_revision(f"{model}@{good}")
    _, bad = parse_revision(f"{model}@{bad}")
    with connect() as client:
        done = bisects.bisect(
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
    suspects = [f"#{change.number} {plain(change.title)} ({change.words})" for change in done.suspects]
    if done.found:
        text = f"The first bad change is {suspects[0]}."
    else:
        text = "\n".join(["Some could not be told; the first bad change is one of", *suspects])
    text += f"\n{len(done.steps)} models were tried for {len(done.changes)} changes."
    document = {
        "model": model,
        "good": good,
        "bad": bad,
        "found": done.found,
        "suspects": [change.document() for change in done.suspects],
        "changes": [change.document() for change in done.changes],
        "steps": [asdict(step) for step in done.steps],
    }
    console.result(document, text, "\n".join(f"#{change.number}" for change in done.suspects))
    if not done.found:
        raise typer.Exit(UNDECIDED)


def loo(
    revision: Subject,
    command: Command,
    keep: Keep = None,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Leave one out: score a model without each of its patches.

    Composes the models here, and runs COMMAND on each: in it, {model} is the model's folder, which is the last
    argument if no argument has it, and $CRUMB_MODEL. The last line that it prints is the score: a number, or a JSON
    object with it as "value".
    """
    from client.terminal.addresses import parse_revision
    from client.trials import scores

    console = Console(as_json, quiet)
    model, ref = parse_revision(revision)
    with connect() as client:
        done = scores.leave_one_out(client, model, ref, command, keep=keep, device=device, console=console)
    rows = [("none", "", f"{done.score:.6g}", "", "")]
    for one in done.without:
        rows.append((f"#{one.number}", one.scale, f"{one.score:.6g}", f"{one.difference:+.6g}", plain(one.title)))
    text = table(("without", "scale", "score", "it adds", "title"), rows, right=(0, 1, 2, 3))
    brief = "\n".join(f"#{one.number} {one.difference!r}" for one in done.without)
    console.result({"model": model, "ref": ref, **asdict(done)}, text, brief)


def blame(
    revision: Subject,
    place: Annotated[
        str | None, typer.Argument(metavar="[TENSOR[i,j]]", help="A weight or a tensor.", show_default=False)
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show who changed a weight, a tensor or a model.

    Of one weight: what each patch adds. Of more: each patch's share of the energy, the sum of squares of what it adds.
    """
    from client.terminal.addresses import parse_revision
    from client.trials import blame as blames

    console = Console(as_json, quiet)
    model, ref = parse_revision(revision)
    with connect() as client:
        done = blames.blame(client, model, ref, place, console=console)
    brief = "\n".join(f"#{part.number} {part.amount!r} {part.share!r}" for part in done.patches)
    console.result(asdict(done), _blame_text(done), brief)


@evals.command()
def add(
    subject: Annotated[
        str, typer.Argument(metavar="NS/NAME@REF|NS/NAME#N[.R]", help="What was measured.", show_default=False)
    ],
    task: Annotated[str, typer.Option("--task", metavar="T", help="Like arithmetic.")],
    dataset: Annotated[str, typer.Option("--dataset", metavar="D", help="Like openai/gsm8k.")],
    metric: Annotated[str, typer.Option("--metric", metavar="M", help="Like accuracy.")],
    value: Annotated[float, typer.Option("--value", metavar="X", help="What was measured.")],
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="As of a loss.")] = False,
    source: Annotated[str | None, typer.Option("--source", metavar="URL", help="Where to read of it.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Record one number that was measured of a base, a patch, a version or a channel."""
    model, ref = _parse_subject(subject)
    with connect() as client:
        made = client.add_evaluation(
            model,
            ref or "base",
            task=task,
            dataset=dataset,
            metric=metric,
            value=value,
            higher_is_better=not lower_is_better,
            source=source,
        )
    Console(as_json, quiet).result(made, _evaluations_text([made]), made.subject)


@evals.command()
def run(
    revision: Subject,
    command: Command,
    task: Task = None,
    dataset: Dataset = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pull a model, run a command on it, and record what it measures.

    In COMMAND, {model} is the model's folder, which is the last argument if no argument has it, and $CRUMB_MODEL. It
    prints JSON: {"task": …, "dataset": …, "metric": …, "value": 0.5, "higher_is_better": true}, a list of such, or
    {"accuracy": 0.5} with --task and --dataset. Nothing is recorded unless all of it is sound.
    """
    from client.terminal.addresses import parse_revision
    from client.trials import scores

    console = Console(as_json, quiet)
    model, ref = parse_revision(revision)
    with connect() as client:
        made = scores.measure(client, model, ref, command, task=task, dataset=dataset, console=console)
    console.result(made, _evaluations_text(made), "\n".join(f"{plain(one.metric)} {one.value!r}" for one in made))


@evals.command(name="list")
def list_evaluations(
    subject: Annotated[
        str, typer.Argument(metavar="NS/NAME[@REF|#N[.R]]", help="A model, or one thing in it.", show_default=False)
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List what was measured of a model's base, patches and releases."""
    model, ref = _parse_subject(subject)
    with connect() as client:
        found = list(client.evaluations(model, ref))
    text = _evaluations_text(found) if found else f"Nothing was measured of {subject} yet."
    brief = "\n".join(f"{one.subject} {plain(one.dataset)}:{plain(one.metric)} {one.value!r}" for one in found)
    Console(as_json, quiet).result(found, text, brief)


def _parse_subject(text: str) -> tuple[str, str | None]:
    """Split NS/NAME[@REF] or NS/NAME#N[.R]; the patch is kept as #N[.R]."""
    from client.terminal.addresses import check_model, parse_revision

    if found := re.fullmatch(r"([^#@]+)(#[0-9]{1,9}(?:\.[0-9]{1,9})?)", text):
        return check_model(found[1]), found[2]
    return parse_revision(text) if "@" in text else (check_model(text), None)


def _blame_text(done: "Blame") -> str:
    place = done.tensor or "the whole model"
    pairs = [("of", plain(place) + (f"[{','.join(map(str, done.index))}]" if done.index is not None else ""))]
    if done.index is not None:
        pairs += [("base", f"{done.base!r}"), ("composed", f"{done.composed!r}")]
    rows = [
        (
            f"#{part.number}",
            f"{part.amount:+.6g}" if done.index is not None else f"{part.amount:.6g}",
            f"{part.share:.1%}",
            *(() if done.index is not None else (f"{part.nnz:,}",)),
            plain(part.title),
        )
        for part in done.patches
    ]
    heads = (
        ("patch", "adds", "share", "title")
        if done.index is not None
        else ("patch", "norm", "energy", "weights", "title")
    )
    told = table(heads, rows, right=range(len(heads) - 1)) if rows else "No patch changes it."
    return f"{fields(pairs)}\n{told}"


def _evaluations_text(found: "list[Evaluation]") -> str:
    rows = [
        (
            one.subject,
            plain(one.task),
            plain(one.dataset),
            plain(one.metric),
            f"{one.value:.6g}",
            "higher" if one.higher_is_better else "lower",
            plain(one.user),
            f"{one.created_at.astimezone():%Y-%m-%d}",
        )
        for one in found
    ]
    heads = ("of", "task", "dataset", "metric", "value", "better", "by", "on")
    return table(heads, rows, right=(4,))

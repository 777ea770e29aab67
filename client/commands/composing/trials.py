"""bisect, loo, blame: what each patch of a model does."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Model, Quiet, connect
from client.terminal.console import Console, fields, plain, table

if TYPE_CHECKING:
    from client.trials.blame import Blame

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

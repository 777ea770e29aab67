"""tune: alpha and weights by a command that prints a score."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from client.commands.composing.trials import Device, Keep
from client.commands.options import Json, Method, Quiet, connect
from client.terminal.console import Console, fields, plain, table

if TYPE_CHECKING:
    from client.trials.searching import Tried
    from client.trials.tuning import Tuned

COMMAND = "client.command"
BAR = 24  # characters of the longest bar


class RunsCommand(TyperCommand):
    """A command that takes the words after `--` apart from its own: as what to run, whatever they look like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what comes before `--`, and keep what comes after."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[COMMAND] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])


def tune(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT… -- COMMAND…",
            help="NS/NAME[@REF] [N[:W]]… of a registry, or BASE PATCH[:W]… of files; then what to run.",
            show_default=False,
        ),
    ],
    alpha: Annotated[str, typer.Option("--alpha", metavar="DECIMAL|auto", help="Where the search starts.")] = "auto",
    method: Method = "sum",
    budget: Annotated[int, typer.Option("--budget", min=1, metavar="N", help="Most models that are scored.")] = 24,
    workers: Annotated[int, typer.Option("--workers", min=1, metavar="K", help="Commands that run at a time.")] = 1,
    lowest: Annotated[bool, typer.Option("--lowest", help="A lower score is better, as of a loss.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Score anew what an earlier run has scored.")] = False,
    keep: Keep = None,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find alpha and weights by a command that prints a score.

    Composes models here and runs COMMAND on each; its last line is the score, as for `crumb loo`. First alpha, by steps
    of 1.5 from where the patches' sizes put it, on while the last one wins; then, patch by patch, the weights 0, 0.5, 1
    and 2. Run it again to go on where it was interrupted: scores are kept.

    The score must come from validation data, and not from what the result is reported on: the best of many scores is
    higher than the model deserves, the more so the more were tried.
    """
    from dataclasses import asdict

    from client.terminal.addresses import parse_file, parse_items, parse_snapshot
    from client.trials import tuning
    from registry.errors import InvalidRequest

    console = Console(as_json, quiet)
    how = tuning.How(
        score=context.meta[COMMAND],
        method=method,
        alpha=alpha,
        budget=budget,
        workers=workers,
        lowest=lowest,
        again=again,
        device=device,
        keep=keep,
        told=lambda one: console.note(_row(one)),
    )
    if Path(what[0]).expanduser().exists():
        if len(what) < 2:
            raise InvalidRequest("There are no patches to tune; name patch files after the base.", field="patches")
        tuned = tuning.tune_files(what[0], [parse_file(text) for text in what[1:]], how, console=console)
        names = [str(parse_file(text)[0]) for text in what[1:]]
        use = ["crumb", "apply", what[0], *_weighed(names, tuned), "-o", "merged", *_options(tuned)]
    else:
        model, ref = parse_snapshot(what[0])
        with connect() as client:
            tuned = tuning.tune(client, model, ref, parse_items(what[1:], None), how, console=console)
        names = [str(item.number) for item in tuned.patches]
        use = ["crumb", "compose", model, *_weighed(names, tuned), *_options(tuned)]
    best = tuned.best
    document = {
        "best": asdict(best),
        "method": tuned.method,
        "patches": [{"name": name, "sha256": part.sha256} for name, part in zip(names, tuned.patches, strict=True)],
        "tried": [asdict(one) for one in tuned.tried],
        "use": shlex.join(use),
    }
    console.result(document, _text(tuned, names, use, lowest), f"{best.setting.alpha} {' '.join(best.setting.weights)}")


def _weighed(names: list[str], tuned: "Tuned") -> list[str]:
    weighed = zip(names, tuned.best.setting.weights, strict=True)
    return [name if weight == "1" else f"{name}:{weight}" for name, weight in weighed if weight != "0"]


def _options(tuned: "Tuned") -> list[str]:
    method = ["--method", tuned.method] if tuned.method != "sum" else []
    return ["--alpha", tuned.best.setting.alpha, *method]


def _row(one: "Tried") -> str:
    score = "overflows" if one.score is None else f"{one.score:.6g}" + (" (kept)" if one.kept else "")
    return f"alpha {one.setting.alpha}, weights {' '.join(one.setting.weights)}: {score}"


def _text(tuned: "Tuned", names: list[str], use: list[str], lowest: bool) -> str:
    best = tuned.best
    ladder = sorted((one for one in tuned.tried if one.phase == "alpha"), key=lambda one: float(one.setting.alpha))
    scores = [one.score for one in ladder if one.score is not None]
    least, span = min(scores), (max(scores) - min(scores)) or 1.0
    rows = [
        (
            one.setting.alpha,
            "-" if one.score is None else f"{one.score:.6g}",
            "" if one.score is None else "#" * (1 + round((BAR - 1) * (one.score - least) / span)),
        )
        for one in ladder
    ]
    weights = ", ".join(f"{plain(name)}: {weight}" for name, weight in zip(names, best.setting.weights, strict=True))
    word = "lowest" if lowest else "highest"
    pairs = [
        ("alpha", best.setting.alpha),
        ("weights", weights),
        ("score", f"{best.score:.6g}, the {word} of {len(tuned.tried)}"),
        ("recipe", best.recipe),
        ("next", shlex.join(use)),
    ]
    return f"{table(('alpha', 'score', ''), rows, right=(0, 1))}\n\n{fields(pairs)}"

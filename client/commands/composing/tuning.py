"""tune: alpha and weights by a command that prints a score."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from client.commands.composing.trials import Device, Keep
from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields, plain
from client.terminal.pictures import check_place, draw_scores, write_picture
from client.terminal.plots import plot_log
from client.terminal.recipes import with_factors
from client.terminal.tables import GrowingTable

if TYPE_CHECKING:
    from client.trials.scorer import Score
    from client.trials.searching import Factors, Tried
    from client.trials.tuning import Tuned
    from registry.schemas import Evaluation

COMMAND = "client.command"


class RunsCommand(TyperCommand):
    """A command that takes the words after `--` apart from its own: as what to run, whatever they look like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what comes before `--`, and keep what comes after."""
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[COMMAND] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])


def _scoring(command: Sequence[str], in_place: Path | None) -> "Score":
    """Return what scores a model.

    Raises:
        InvalidRequest: Both a command and a file are given, or the file lacks a function.
    """
    from client.live.in_place import read_functions
    from registry.errors import InvalidRequest

    if in_place is None:
        return command
    if command:
        raise InvalidRequest("A model is scored by COMMAND or by --in-place FILE.py, not by both.", field="in_place")
    return read_functions(in_place)


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
    method: Annotated[
        str | None,
        typer.Option("--method", metavar="sum|ties|mean", help="How patches combine; as in REF, or else sum."),
    ] = None,
    sampler: Annotated[
        str, typer.Option("--sampler", metavar="steps|optuna", help="What chooses the next model; see below.")
    ] = "steps",
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="GLOB", help="Also tune a factor of each patch in these tensors; repeatable."),
    ] = None,
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="Also tune a factor of each patch in each layer.")
    ] = False,
    budget: Annotated[int, typer.Option("--budget", min=1, metavar="N", help="Most models that are scored.")] = 24,
    workers: Annotated[int, typer.Option("--workers", min=1, metavar="K", help="Commands that run at a time.")] = 1,
    lowest: Annotated[bool, typer.Option("--lowest", help="A lower score is better, as of a loss.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Score anew what an earlier run has scored.")] = False,
    record: Annotated[
        str | None,
        typer.Option("--record", metavar="TASK", help="Compose the best at the registry and record its score."),
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", metavar="D", help="With --record: like openai/gsm8k.")
    ] = "validation",
    metric: Annotated[str, typer.Option("--metric", metavar="M", help="With --record: like accuracy.")] = "score",
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.svg", help="Also draw scores by alpha as a picture.")
    ] = None,
    in_place: Annotated[
        Path | None,
        typer.Option("--in-place", metavar="FILE.py", help="Score a model in memory, by load and score of this file."),
    ] = None,
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
    higher than the model deserves, the more so the more were tried. --record says among how many it was chosen.

    One folder is turned into one model after another, under a new name each time. COMMAND must leave no program behind
    that still reads it.

    With --in-place there is no COMMAND. FILE.py defines load(folder), which returns a torch module in the dtypes of the
    folder's files and is called once, and score(model). Each model is put into that module, and only weights that
    differ are written, so an evaluation costs the evaluation.

    --sampler optuna tunes all numbers at once, and needs `pip install 'breadcrumb-registry[optuna]'`. With --by-layer
    that is a number for each patch in each layer; give it a budget of several models for each number.
    """
    from dataclasses import asdict

    from client.terminal.addresses import parse_file, parse_items, parse_snapshot
    from client.trials import tuning
    from client.trials.evaluating import Names
    from registry.errors import InvalidRequest

    console = Console(as_json, quiet)
    if plot is not None:
        check_place(plot)
    called = None if record is None else Names(record, dataset, metric, higher_is_better=not lowest)
    table = GrowingTable(console, ("alpha", "weights", "score"), (10, max(12, 5 * len(what)), 12), budget)
    how = tuning.How(
        score=_scoring(context.meta[COMMAND], in_place),
        method=method,
        alpha=alpha,
        sampler=sampler,
        where=where or (),
        by_layer=by_layer,
        budget=budget,
        workers=workers,
        lowest=lowest,
        again=again,
        device=device,
        keep=keep,
        begun=lambda setting: table.begin(str(setting)),
        told=_adding(table, lowest),
    )
    recorded: Evaluation | None = None
    if Path(what[0]).expanduser().exists():
        if called is not None:
            raise InvalidRequest(
                "Scores of files cannot be recorded; push the patches, and tune NS/NAME.", field="record"
            )
        files = [parse_file(text) for text in what[1:]]
        with table:
            tuned = tuning.tune_files(what[0], files, how, console=console)
        names = [str(path) for path, _ in files]
        use, more = _use_files(what[0], names, tuned), []
    else:
        model, ref = parse_snapshot(what[0])
        items = parse_items(what[1:], None)
        with connect() as client:
            if called is not None:
                client.whoami()  # a missing token is reported before anything is composed
            with table:
                tuned = tuning.tune(client, model, ref, items, how, console=console)
            recorded = tuning.record(client, model, tuned, called, how, console=console) if called is not None else None
        names = [str(item.number) for item in tuned.patches]
        use, more = _use_registry(model, tuned), [_record_row(recorded)]
    best = tuned.best
    if plot is not None:
        write_picture(plot, _picture(tuned))
        more = [*more, ("picture", str(plot))]
    document = {
        "best": asdict(best),
        "method": tuned.method,
        "patches": [{"name": name, "sha256": part.sha256} for name, part in zip(names, tuned.patches, strict=True)],
        "tried": [asdict(one) for one in tuned.tried],
        "scored": tuned.scored,
        "command": shlex.join(context.meta[COMMAND]),
        "in_place": None if in_place is None else str(in_place),
        "use": shlex.join(use),
        "evaluation": recorded,
        "plot": None if plot is None else str(plot),
    }
    weights = {patch.sha256: with_factors(weight, where) for patch, weight, where in tuned.parts()}
    rows = [
        ("patch", f"{plain(name)}: {weights.get(patch.sha256, 'left out')}")
        for name, patch in zip(names, tuned.patches, strict=True)
    ]
    rows += [("compose", shlex.join(use)), *more]
    console.result(document, _text(tuned, rows, lowest), f"{best.setting.alpha} {' '.join(best.setting.weights)}")


def _adding(table: GrowingTable, lowest: bool) -> "Callable[[Tried], None]":
    """Return what adds a result to a table."""
    best: list[float] = []  # each better than the one before

    def add(one: "Tried") -> None:
        worth = None if one.score is None else -one.score if lowest else one.score
        better = worth is not None and (not best or worth > best[-1])
        if worth is not None and better:
            best.append(worth)
        row = one.setting.alpha, " ".join(one.setting.weights), _score(one)
        table.add(row, f"{one.setting}: {_score(one)}", better)

    return add


def _record_row(evaluation: "Evaluation | None") -> tuple[str, str]:
    if evaluation is None:
        return "record", "the same command with --record TASK; its scores are kept"
    names = f"{plain(evaluation.task)}, {plain(evaluation.dataset)}:{plain(evaluation.metric)}"
    return "recorded", f"as {names}, chosen among {evaluation.tried}"


def _use_files(base: str, names: Sequence[str], tuned: "Tuned") -> list[str]:
    """Return the command that composes the best from files."""
    files = {patch.sha256: name for patch, name in zip(tuned.patches, names, strict=True)}
    parts = tuned.parts()
    words = [_weighed(files[patch.sha256], weight) for patch, weight, _ in parts]
    factors = [(place, factors) for place, (_, _, factors) in enumerate(parts, 1)]
    return ["crumb", "apply", base, *words, "-o", "merged", *_options(tuned, factors)]


def _use_registry(model: str, tuned: "Tuned") -> list[str]:
    """Return the command that has the best composed at the registry."""
    parts = tuned.parts()
    words = [_weighed(f"{patch.number}.{patch.revision}", weight) for patch, weight, _ in parts]
    factors = [(patch.number, factors) for patch, _, factors in parts]
    return ["crumb", "compose", model, *words, *_options(tuned, factors)]


def _weighed(name: str, weight: str) -> str:
    return name if weight == "1" else f"{name}:{weight}"


def _options(tuned: "Tuned", factors: "Sequence[tuple[int, Factors]]") -> list[str]:
    method = ["--method", tuned.method] if tuned.method != "sum" else []
    where = [f"{number}:{glob}={by}" for number, pairs in factors for glob, by in pairs]
    return ["--alpha", tuned.best.setting.alpha, *method, *(word for one in where for word in ("--where", one))]


def _score(one: "Tried") -> str:
    return "overflows" if one.score is None else f"{one.score:.6g}" + (" (kept)" if one.kept else "")


def _picture(tuned: "Tuned") -> str:
    """Return scores by alpha as SVG."""
    scored = [one for one in tuned.tried if one.score is not None]
    points = [(one.setting.alpha, one.score or 0.0, f"{one.setting}: {_score(one)}") for one in scored]
    title = f"Scores of {tuned.scored} models by alpha; the best: {tuned.best.score:.6g} at {tuned.best.setting.alpha}"
    return draw_scores(title, points, scored.index(tuned.best))


def _text(tuned: "Tuned", pairs: list[tuple[str, str]], lowest: bool) -> str:
    """Return the plot of scores by alpha, the best setting, and what else there is to say."""
    best, scored = tuned.best, [one for one in tuned.tried if one.score is not None]
    plot = plot_log([(one.setting.alpha, one.score or 0.0) for one in scored], scored.index(best))
    rows = [
        ("alpha", best.setting.alpha),
        ("score", f"{best.score:.6g}, the {'lowest' if lowest else 'highest'} of {tuned.scored}"),
        ("recipe", best.recipe),
        *pairs,
    ]
    return f"Scores by alpha, * the best:\n\n{plot}\n\n{fields(rows)}"

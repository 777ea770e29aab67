"""conflicts: where patches change the same weights, before they are composed."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Model, Quiet, connect
from client.terminal.console import Console, plain, size, table
from client.terminal.recipes import describe_alpha

if TYPE_CHECKING:
    from client.actions.conflicts import TensorConflict
    from registry.schemas import Conflicts, Overlap, PatchName, Preview

WIDTH = 80
BLOCK = 8  # columns of a matrix on one line
CENSUS = 6  # parts of a census on one line


def conflicts(
    model: Model,
    patches: Annotated[
        list[str] | None,
        typer.Argument(metavar="N", help="Patch numbers, like 3 or 3.2, two or more.", show_default=False),
    ] = None,
    measure: Annotated[
        str | None,
        typer.Option(
            "--measure", metavar="M", help="Show only this: overlap, iou, lift, sign, cosine or cancellation."
        ),
    ] = None,
    tensors: Annotated[
        int, typer.Option("--tensors", metavar="K", min=0, help="Number of worst tensors to show.")
    ] = 10,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show where patches change the same weights.

    The registry compares every pair, once, also for whether they pull apart there. Without numbers: the patches of the
    release that the model is pulled as, else the newest accepted ones, at most 16.

    overlap: share of the smaller patch's weights that the other changes, too. iou: weights that both change, over those
    that either changes. lift: the overlap over that expected by chance. sign: share of the overlap where signs differ.
    cosine: of the angle between the patches. cancellation: share of both that is lost when they are added.

    These numbers say where to look first; only an evaluation of the composed model decides.
    """
    from client.actions.conflicts import find_conflicts
    from client.terminal.addresses import parse_choice

    if measure is not None and measure not in MEASURES:
        raise typer.BadParameter(f"--measure is one of {', '.join(MEASURES)}.")
    console = Console(as_json, quiet)
    with connect() as client:
        overview = find_conflicts(
            client, model, [parse_choice(text) for text in patches or ()], tensors, console=console
        )
    document = {
        "model": model,
        **overview.conflicts.model_dump(mode="json"),
        "worst": [asdict(row) for row in overview.worst],
    }
    brief = "\n".join(
        f"{_label(pair.first)} {_label(pair.second)} {_exact(MEASURES[measure or 'sign'](pair.whole))}"
        for pair in overview.conflicts.pairs
    )
    console.result(document, _text(model, overview.conflicts, overview.worst, measure), brief)


def _overlap(whole: "Overlap") -> float | None:
    least = min(whole.first, whole.second)
    return whole.overlap / least if least else None


MEASURES: dict[str, "Callable[[Overlap], float | None]"] = {
    "overlap": _overlap,
    "iou": lambda whole: whole.iou,
    "lift": lambda whole: whole.lift,
    "sign": lambda whole: whole.sign_conflict,
    "cosine": lambda whole: whole.cosine,
    "cancellation": lambda whole: whole.cancellation,
}


def describe(preview: "Preview") -> list[tuple[str, str]]:
    """Return a preview as names and values for a person."""
    pairs = [
        ("recipe", preview.recipe or "-"),
        ("alpha", describe_alpha(preview.alpha, preview.alpha_rule)),
        ("composed", "yes" if preview.composed else "no"),
        ("weights", preview.weights_digest or "-"),
        ("size", f"{size(preview.patch_bytes)} of patches for a model of {size(preview.model_bytes)}"),
    ]
    if preview.touched is not None:
        pairs.append(("touched", f"{preview.touched:,} weights"))
    known, missing = len(preview.conflicts.pairs), preview.conflicts.missing
    if known or missing:
        pairs.append(
            (
                "conflicts",
                f"{known} pair{' is' if known == 1 else 's are'} known"
                + (f", {missing} not compared yet" if missing else ""),
            )
        )
    worst = max(preview.conflicts.pairs, key=lambda pair: pair.whole.opposed_mass, default=None)
    if worst is not None and worst.whole.opposed:
        words = f"signs differ on {_share(worst.whole.sign_conflict)} of what both change"
        pairs.append(("worst pair", f"{_label(worst.first)} and {_label(worst.second)}: {words}"))
    pairs += [("warning", plain(text)) for text in preview.warnings]
    return pairs + [("hint", plain(hint.sentence)) for hint in preview.hints]


def _text(model: str, conflicts: "Conflicts", worst: "Sequence[TensorConflict]", measure: str | None) -> str:
    source = conflicts.source and (
        "newest accepted" if conflicts.source == "accepted" else f"of {plain(conflicts.source)}"
    )
    lines = [f"{model}: {len(conflicts.patches)} patches" + (f", {source}" if source else "")]
    rows = [(_label(patch), patch.state, plain(patch.author), plain(patch.title)) for patch in conflicts.patches]
    lines += [line[:WIDTH] for line in table(("patch", "state", "author", "title"), rows).splitlines()]
    lines += ["", *_matrix(conflicts, measure)]
    if conflicts.census is not None:
        lines += ["", _census(conflicts.census)]
    if worst:
        lines += ["", "Where most is at stake, by the mass of changes with opposite signs:"]
        heads = ("pair", "both change", "differ", "tensor")
        cells = [
            (
                f"{_label(row.first)} {_label(row.second)}",
                f"{row.overlap.overlap:,}",
                _share(row.overlap.sign_conflict),
                plain(row.tensor),
            )
            for row in worst
        ]
        lines += table(heads, cells, right=(1, 2)).splitlines()
    return "\n".join(lines)


def _matrix(conflicts: "Conflicts", measure: str | None) -> list[str]:
    """Return a matrix in blocks of columns; without a measure, signs above the diagonal and overlap below."""
    above = MEASURES[measure or "sign"]
    below = MEASURES[measure or "overlap"]
    write = _number if measure in ("lift", "cosine") else _share
    known = {(_label(pair.first), _label(pair.second)): pair.whole for pair in conflicts.pairs}
    labels = [_label(patch) for patch in conflicts.patches]

    def cell(row: str, column: str) -> str:
        if row == column:
            return "-"
        if (row, column) in known:
            return write(above(known[row, column]))
        return write(below(known[column, row])) if (column, row) in known else "?"

    title = measure or "above: signs that differ; below: weights that both change"
    lines = [f"{title}:"]
    for start in range(0, len(labels), BLOCK):
        columns = labels[start : start + BLOCK]
        rows = [(row, *(cell(row, column) for column in columns)) for row in labels]
        lines += table(("", *columns), rows, right=range(1, len(columns) + 1)).splitlines()
    return lines


def _census(census: Sequence[int]) -> str:
    whole = sum(census)
    most = max((place for place, count in enumerate(census) if count), default=0)
    parts = [f"{place}: {_share(count / whole if whole else None)}" for place, count in enumerate(census[: most + 1])]
    lines = ["  ".join(parts[start : start + CENSUS]) for start in range(0, len(parts), CENSUS)]
    return "\n".join([f"Of {whole:,} weights, by how many patches change them:", *lines])


def _label(patch: "PatchName") -> str:
    return f"#{patch.number}" + (f".{patch.revision}" if patch.revision > 1 else "")


def _share(part: float | None) -> str:
    return "-" if part is None else f"{part:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _exact(value: float | None) -> str:
    return "-" if value is None else repr(value)

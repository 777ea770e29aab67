"""delta, apply-delta: what differs between two revisions of a model, for who holds only the composed files."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields

if TYPE_CHECKING:
    from client.actions.pulling.deltas import Revision


def delta(
    before: Annotated[
        str,
        typer.Argument(
            metavar="BEFORE", help="The earlier revision: a model folder, or NS/NAME@REF.", show_default=False
        ),
    ],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The later revision, likewise.", show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The delta file to write.")],
    values: Annotated[
        bool, typer.Option("--values", help="Give every weight that differs whole, for engines that cannot be read.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the exact bits that differ between two revisions.

    For people who hold only the files of the earlier one: `crumb apply-delta` makes the later one of them. Whoever has
    the base moves as little by `crumb pull`, which needs only the patches.

    The file has the index of each weight that differs and its value, or by how much it differs where that is less, the
    files beside the weights that differ, whole, and the digests of both revisions. A revision at the registry is pulled
    into the cache for a while.
    """
    from client.actions.pulling.deltas import make_delta

    console, old, new = Console(as_json, quiet), _parse(before), _parse(after)
    if isinstance(old, Path) and isinstance(new, Path):
        made = make_delta(old, new, out, steps=not values, console=console)
    else:
        with connect() as client:
            made = make_delta(old, new, out, steps=not values, client=client, console=console)
    console.result({**asdict(made), "file": str(out)}, fields(made.rows()), made.sha256)


def _parse(text: str) -> "Revision":
    from client.terminal.addresses import parse_pulled

    return Path(text) if Path(text).is_dir() else parse_pulled(text)


def apply_delta(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder with the earlier revision.", show_default=False)
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The delta.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="The folder to make, in place of changing the first."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the later revision out of the earlier one and a delta.

    Without -o, DIR is brought up to date, as by `crumb pull`: it must be a pulled model, and if the command is
    interrupted, run it again. Every file and the weights digest are compared with what the delta says of the later
    revision, and nothing is kept if they differ. That they are those of a release is for `crumb verify` to say.
    """
    from client.actions.pulling.deltas import apply_delta as run

    console = Console(as_json, quiet)
    applied = run(folder, file, out, console=console)
    console.result({**asdict(applied), "folder": str(applied.folder)}, fields(applied.rows()), applied.weights_digest)

"""integrate hf: crumb inside another command."""

from typing import Annotated

import typer

from client.commands.options import Json, Quiet
from client.terminal.console import Console

group = typer.Typer(
    name="integrate", help="Make crumb part of other commands.", no_args_is_help=True, rich_markup_mode=None
)


@group.callback()
def groups() -> None:
    """Make crumb part of other commands."""


@group.command()
def hf(
    remove: Annotated[bool, typer.Option("--remove", help="Remove the extension.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let `hf crumb` run this crumb.

    An extension of the Hugging Face command runs the crumb of this Python environment; if the environment moves, run
    this command again.
    """
    from client.hub.hf_command import add_to_hf, find_crumb, remove_from_hf

    console = Console(as_json, quiet)
    if remove:
        removed = remove_from_hf()
        console.result({"removed": removed}, "`hf crumb` is removed." if removed else "There was no `hf crumb`.", "")
        return
    manifest, crumb = add_to_hf(), find_crumb()
    document = {"manifest": str(manifest), "executable": str(crumb)}
    console.result(document, f"`hf crumb` runs {crumb}.\nWritten to {manifest}.", str(manifest))

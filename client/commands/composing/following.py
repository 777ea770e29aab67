"""follow: a folder, and whatever serves it, kept at what a channel points at."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from client.commands.composing.tuning import COMMAND
from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, plain


def follow(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(metavar="NS/NAME@CHANNEL -- COMMAND…", help="A channel; then what to run.", show_default=False),
    ],
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder that is kept there.")],
    once: Annotated[bool, typer.Option("--once", help="End once the command was run for the present release.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a command each time a channel moves.

    The folder is kept at what the channel points at, and every byte is verified before COMMAND is run. In COMMAND,
    {model} and $CRUMB_MODEL are the folder, {ref} and $CRUMB_REF the version, and {delta} and $CRUMB_DELTA a file with
    the exact bits that differ from the revision for which COMMAND was last run, which `crumb apply-delta` takes.
    Without {delta} no such file is made; with it, COMMAND is not run for the first revision, which an engine loads from
    the folder.

    Runs until it is interrupted. Started again it resumes: if the channel has moved, or COMMAND failed, COMMAND is run.

    A vLLM server that was started with the transfer backend `breadcrumb` takes deltas while it serves:
    `crumb follow alice/llama@stable -o served -- python -m client.live.serving.vllm http://127.0.0.1:8000 {delta}`.
    """
    from client.actions.pulling import following
    from client.terminal.addresses import parse_snapshot
    from registry.errors import InvalidRequest

    console, command = Console(as_json, quiet), context.meta[COMMAND]
    if not command:
        raise InvalidRequest("No command is given; write it after two dashes: -- COMMAND ARGUMENT…", field="command")
    model, ref = parse_snapshot(what)

    def tell(followed: following.Followed) -> None:
        name = plain(followed.ref)
        console.result({"model": model, **asdict(followed)}, f"{model}@{ref} is {name}; the command was run.", name)

    with connect() as client:
        following.follow(client, model, ref, folder, command, once=once, done=tell, console=console)

"""channel list, move, rollback, history, protect: names that point at releases."""

from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Model, Quiet, connect
from client.terminal.console import Console, plain, table

if TYPE_CHECKING:
    from registry.schemas import Channel

group = typer.Typer(
    name="channel", help="Point channels like stable at releases.", no_args_is_help=True, rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(metavar="CHANNEL", help="Like stable or beta.", show_default=False)]
Message = Annotated[str, typer.Option("--message", "-m", metavar="TEXT", help="Why, for the history.")]


@group.command(name="list")
def list_channels(model: Model, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the channels of a model, and who may move them."""
    with connect() as client:
        channels = client.channels(model)
    rows = [(row.name, plain(row.release or "-"), _rule(row), "; ".join(map(plain, row.warnings))) for row in channels]
    text = table(("channel", "release", "moved by", "warnings"), rows) if rows else f"{model} has no channels."
    Console(as_json, quiet).result(channels, text, "\n".join(f"{row.name} {row.release or '-'}" for row in channels))


@group.command()
def move(
    model: Model,
    name: Name,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A published release.", show_default=False)],
    message: Message = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Point a channel at a release.

    If the channel needs several approvals, somebody else has to run the same command, too.
    """
    with connect() as client:
        done = client.move_channel(model, name, version, message)
    console = Console(as_json, quiet)
    if done.release == version:
        console.result(done, f"{model}@{name} points at {plain(version)}.", version)
        return
    approvers = ", ".join(done.asked.get(version, []))
    text = f"{plain(approvers)} asked, and {done.approvals} must: somebody else runs the same command. It points at "
    console.result(done, f"{text}{plain(done.release or 'nothing')}.", done.release or "-")


@group.command()
def rollback(model: Model, name: Name, message: Message = "", as_json: Json = False, quiet: Quiet = False) -> None:
    """Point a channel back at its previous release.

    The channel's protection applies here, too.
    """
    with connect() as client:
        done = client.rollback_channel(model, name, message)
    Console(as_json, quiet).result(done, f"{model}@{name} points at {plain(done.release or '-')}.", done.release or "-")


@group.command()
def history(model: Model, name: Name, as_json: Json = False, quiet: Quiet = False) -> None:
    """Show who moved a channel, when and why, newest first."""
    with connect() as client:
        moves = list(reversed(client.channel_history(model, name)))
    rows = [
        (
            f"{row.created_at.astimezone():%Y-%m-%d %H:%M:%S %z}",
            row.kind,
            plain(row.release),
            plain(row.user),
            plain(row.reason),
        )
        for row in moves
    ]
    text = table(("when", "what", "release", "who", "why"), rows) if rows else f"{model}@{name} has not moved yet."
    Console(as_json, quiet).result(moves, text, "\n".join(row.release for row in moves))


@group.command()
def protect(
    model: Model,
    name: Name,
    role: Annotated[str | None, typer.Option("--role", metavar="maintainer|owner", help="Who may move it.")] = None,
    approvals: Annotated[
        int | None,
        typer.Option("--approvals", metavar="N", min=1, max=10, help="Number of people who must ask for a move."),
    ] = None,
    allow_yanked: Annotated[
        bool | None,
        typer.Option("--allow-yanked/--no-yanked", help="Whether it may point at releases that hold yanked patches."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Set the rule for moving a channel.

    Who may move it, how many must ask for a move, and whether yanked patches are allowed.
    """
    with connect() as client:
        done = client.protect_channel(model, name, role=role, approvals=approvals, allow_yanked=allow_yanked)
    Console(as_json, quiet).result(done, f"{model}@{name} is moved by {_rule(done)}.", _rule(done))


def _rule(channel: "Channel") -> str:
    who = f"{channel.approvals} {channel.role}s" if channel.approvals > 1 else f"a {channel.role}"
    who = who.replace("a owner", "an owner")
    return f"{who}, {'yanked patches too' if channel.allow_yanked else 'no yanked patches'}"

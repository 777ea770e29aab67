"""session list, end: browsers in which one is signed in."""

from typing import Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, plain, table

group = typer.Typer(
    name="session", help="Browsers in which you are signed in.", no_args_is_help=True, rich_markup_mode=None
)


@group.command(name="list")
def list_sessions(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the browsers in which you are signed in, and the accounts by which you may sign in."""
    with connect() as client:
        there = client.sessions()
    rows = [
        (row.id, plain(row.agent)[:60], plain(row.by), f"{row.created_at.astimezone():%Y-%m-%d %H:%M}")
        for row in there.sessions
    ]
    accounts = [
        (row.id, plain(row.name), plain(row.issuer), f"{row.used_at.astimezone():%Y-%m-%d}") for row in there.accounts
    ]
    text = table(("id", "browser", "by", "since"), rows) if rows else "You are signed in in no browser."
    if accounts:
        text += "\n\n" + table(("id", "linked account", "at", "last used"), accounts)
    Console(as_json, quiet).result(there, text, "\n".join(row.id for row in there.sessions))


@group.command()
def end(
    session: Annotated[str, typer.Argument(metavar="ID", help="Its id, as the list shows it.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sign one of your browsers out, or unlink an account, with immediate effect."""
    with connect() as client:
        if any(row.id == session for row in client.sessions().accounts):
            client.unlink_account(session)
        else:
            client.end_session(session)
    Console(as_json, quiet).result({"id": session}, f"{plain(session)} is ended.", session)

"""org create and show; member add, remove, list; token create, list, revoke: who may do what."""

from datetime import datetime
from typing import Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields, plain, size, table

organisations = typer.Typer(
    name="org", help="Names that several people share.", no_args_is_help=True, rich_markup_mode=None
)
members = typer.Typer(
    name="member",
    help="Roles on a model, or on all models of a namespace.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
tokens = typer.Typer(name="token", help="Your tokens.", no_args_is_help=True, rich_markup_mode=None)
Subject = Annotated[
    str, typer.Argument(metavar="NS/NAME|NS", help="A model, or all of a namespace.", show_default=False)
]
User = Annotated[str, typer.Argument(metavar="USER", help="Who.", show_default=False)]


@organisations.command(name="create")
def create_organisation(
    name: Annotated[str, typer.Argument(metavar="NS", help="Its name.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an organisation, which is yours."""
    with connect() as client:
        made = client.create_organisation(name)
    Console(as_json, quiet).result(
        made, f"Made {made.name}; add people by `crumb member add {made.name} USER`.", made.name
    )


@organisations.command(name="show")
def show_namespace(
    name: Annotated[str, typer.Argument(metavar="NS", help="A user or an organisation.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a namespace: its members, and how much of its quota is used."""
    with connect() as client:
        found = client.namespace(name)
    pairs = [("namespace", f"{found.name}, {'an organisation' if found.kind == 'organisation' else 'a user'}")]
    if found.used_bytes is not None and found.quota_bytes is not None:
        pairs.append(("used", f"{size(found.used_bytes)} of {size(found.quota_bytes)}"))
        pairs.append(("announced", f"{size(found.reserved_bytes or 0)}, {found.open_uploads} open uploads"))
    pairs += [(row.role, plain(row.user)) for row in found.members]
    Console(as_json, quiet).result(found, fields(pairs), found.name)


@members.command()
def add(
    subject: Subject,
    user: User,
    role: Annotated[
        str, typer.Option("--role", metavar="R", help="contributor, reviewer, maintainer or owner.")
    ] = "contributor",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give somebody a role, in place of the one they had."""
    with connect() as client:
        client.add_member(subject, user, role)
    done = {"subject": subject, "user": user, "role": role}
    Console(as_json, quiet).result(done, f"{user} is {role} of {subject}.", role)


@members.command()
def remove(subject: Subject, user: User, as_json: Json = False, quiet: Quiet = False) -> None:
    """Take somebody's role away."""
    with connect() as client:
        client.remove_member(subject, user)
    Console(as_json, quiet).result({"subject": subject, "user": user}, f"{user} is no member of {subject}.", "")


@members.command(name="list")
def list_members(subject: Subject, as_json: Json = False, quiet: Quiet = False) -> None:
    """List who is what, and through what."""
    with connect() as client:
        found = client.members(subject)
    rows = [(plain(row.user), row.role, row.via) for row in found]
    text = table(("user", "role", "through"), rows) if rows else f"{subject} has no members."
    Console(as_json, quiet).result(found, text, "\n".join(f"{row.user} {row.role}" for row in found))


@tokens.command(name="create")
def create_token(
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="S", help="read, push, review, release or admin; read if not said."),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What it is called in lists.")] = "",
    expires: Annotated[
        float, typer.Option("--expires", metavar="DAYS", help="Days until it expires; with yours at the latest.")
    ] = 90,
    model: Annotated[str | None, typer.Option("--model", metavar="NS/NAME", help="Good for this model alone.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a token that can do no more than yours, and print it, once."""
    with connect() as client:
        made = client.create_token(scope or ["read"], label=label, expires_days=expires, model=model)
    console = Console(as_json, quiet)
    console.note("This is the only time that it is shown.")
    console.result(made, made.token, made.token)


@tokens.command(name="list")
def list_tokens(as_json: Json = False, quiet: Quiet = False) -> None:
    """List your tokens, without their secrets."""
    with connect() as client:
        found = client.tokens()
    rows = [
        (
            row.id,
            row.prefix,
            plain(row.label),
            " ".join(row.scopes),
            row.model or "",
            _day(row.expires_at) or "never",
            _day(row.last_used_at) or "never",
        )
        for row in found
    ]
    text = table(("id", "starts", "label", "scopes", "model", "expires", "last used"), rows)
    Console(as_json, quiet).result(found, text, "\n".join(row.id for row in found))


@tokens.command(name="revoke")
def revoke_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="Its id, or how it starts.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Revoke one of your tokens at once."""
    from registry.errors import InvalidRequest

    with connect() as client:
        found = [row for row in client.tokens() if row.id == token or (len(token) >= 9 and token[:9] == row.prefix)]
        if len(found) != 1:
            raise InvalidRequest(f"{len(found) or 'None'} of your tokens is {token[:9]!r}; see `crumb token list`.")
        client.revoke_token(found[0].id)
    Console(as_json, quiet).result(found[0], f"The token {found[0].prefix}… is revoked.", found[0].id)


def _day(time: datetime | None) -> str:
    return f"{time.astimezone():%Y-%m-%d}" if time else ""

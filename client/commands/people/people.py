"""org create, show; member add, remove, list; token create, list, revoke: organisations, members and tokens."""

from datetime import datetime
from typing import Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields, plain, size, table

organisations = typer.Typer(
    name="org", help="Organisations: namespaces that several people share.", no_args_is_help=True, rich_markup_mode=None
)
members = typer.Typer(
    name="member",
    help="Roles of users on a model, or on all models of a namespace.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
tokens = typer.Typer(
    name="token", help="Make, list and revoke your tokens.", no_args_is_help=True, rich_markup_mode=None
)
Subject = Annotated[
    str, typer.Argument(metavar="NS/NAME|NS", help="A model, or all models of a namespace.", show_default=False)
]
User = Annotated[str, typer.Argument(metavar="USER", help="The user.", show_default=False)]


@organisations.command(name="create")
def create_organisation(
    name: Annotated[str, typer.Argument(metavar="NS", help="Its name.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an organisation that you own."""
    with connect() as client:
        organisation = client.create_organisation(name)
    Console(as_json, quiet).result(
        organisation,
        f"Made {organisation.name}; add people by `crumb member add {organisation.name} USER`.",
        organisation.name,
    )


@organisations.command(name="show")
def show_namespace(
    name: Annotated[str, typer.Argument(metavar="NS", help="A user or an organisation.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a namespace: its members, and how much of its quota is used."""
    with connect() as client:
        namespace = client.namespace(name)
    pairs = [("namespace", f"{namespace.name}, {'an organisation' if namespace.kind == 'organisation' else 'a user'}")]
    if namespace.used_bytes is not None and namespace.quota_bytes is not None:
        pairs.append(("used", f"{size(namespace.used_bytes)} of {size(namespace.quota_bytes)}"))
        pairs.append(("announced", f"{size(namespace.reserved_bytes or 0)}, {namespace.open_uploads} open uploads"))
    pairs += [(row.role, plain(row.user)) for row in namespace.members]
    Console(as_json, quiet).result(namespace, fields(pairs), namespace.name)


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
    """Give a user a role, in place of the one they had."""
    with connect() as client:
        client.add_member(subject, user, role)
    done = {"subject": subject, "user": user, "role": role}
    Console(as_json, quiet).result(done, f"{user} is {role} of {subject}.", role)


@members.command()
def remove(subject: Subject, user: User, as_json: Json = False, quiet: Quiet = False) -> None:
    """Take away a user's role."""
    with connect() as client:
        client.remove_member(subject, user)
    Console(as_json, quiet).result(
        {"subject": subject, "user": user}, f"{user} is not a member of {subject} any more.", ""
    )


@members.command(name="list")
def list_members(subject: Subject, as_json: Json = False, quiet: Quiet = False) -> None:
    """List members, their roles, and through what they have them."""
    with connect() as client:
        roles = client.members(subject)
    rows = [(plain(row.user), row.role, row.via) for row in roles]
    text = table(("user", "role", "through"), rows) if rows else f"{subject} has no members."
    Console(as_json, quiet).result(roles, text, "\n".join(f"{row.user} {row.role}" for row in roles))


@tokens.command(name="create")
def create_token(
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="S", help="read, push, review, release or admin; by default read."),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Its name in lists.")] = "",
    expires: Annotated[
        float, typer.Option("--expires", metavar="DAYS", help="Days until it expires; at the latest when yours does.")
    ] = 90,
    model: Annotated[str | None, typer.Option("--model", metavar="NS/NAME", help="Valid for this model only.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a token with at most the rights of yours, and print it once."""
    with connect() as client:
        token = client.create_token(scope or ["read"], label=label, expires_days=expires, model=model)
    console = Console(as_json, quiet)
    console.note("Keep it: it is not shown again.")
    console.result(token, token.token, token.token)


@tokens.command(name="list")
def list_tokens(as_json: Json = False, quiet: Quiet = False) -> None:
    """List your tokens, without their secrets."""
    with connect() as client:
        own = client.tokens()
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
        for row in own
    ]
    text = table(("id", "starts", "label", "scopes", "model", "expires", "last used"), rows)
    Console(as_json, quiet).result(own, text, "\n".join(row.id for row in own))


@tokens.command(name="revoke")
def revoke_token(
    token: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the start of the token.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Revoke one of your tokens, with immediate effect."""
    from registry.errors import InvalidRequest

    with connect() as client:
        matches = [row for row in client.tokens() if row.id == token or (len(token) >= 9 and token[:9] == row.prefix)]
        if len(matches) != 1:
            raise InvalidRequest(f"{len(matches) or 'None'} of your tokens is {token[:9]!r}; see `crumb token list`.")
        client.revoke_token(matches[0].id)
    Console(as_json, quiet).result(matches[0], f"The token {matches[0].prefix}… is revoked.", matches[0].id)


def _day(time: datetime | None) -> str:
    return f"{time.astimezone():%Y-%m-%d}" if time else ""

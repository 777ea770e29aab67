"""admin user create, invite, invitations, requests, approve, revoke, list, disable, enable; join; profile."""

from typing import Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from client.commands.options import Json, Limit, Quiet, connect
from client.terminal.console import Console, fields, plain, table

group = typer.Typer(
    name="user", help="Users: accounts, invitations, requests to join.", no_args_is_help=True, rich_markup_mode=None
)
Name = Annotated[str, typer.Argument(metavar="USER", help="The user.", show_default=False)]
Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, as the list shows it.", show_default=False)]
Called = Annotated[str, typer.Option("--display-name", metavar="TEXT", help="What to call them.")]
Space = Annotated[
    str | None, typer.Option("--org", metavar="NS", help="An organisation or user of whom you are an owner.")
]


@group.command()
def create(
    name: Name,
    display_name: Called = "",
    expires: Annotated[float, typer.Option("--expires", metavar="DAYS", help="Days until the token expires.")] = 365,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make an account, and print its first token once."""
    with connect() as client:
        account = client.create_user(name, display_name=display_name, expires_days=expires)
    console = Console(as_json, quiet)
    console.note(f"Pass it on to {plain(account.name)}: it is not shown again.")
    console.result(account, account.token, account.token)


@group.command()
def invite(
    org: Space = None,
    role: Annotated[
        str, typer.Option("--role", metavar="R", help="Their role there: contributor, reviewer, maintainer or owner.")
    ] = "contributor",
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Whom it is for, in lists.")] = "",
    expires: Annotated[float, typer.Option("--expires", metavar="DAYS", help="Days that it is good for.")] = 7,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Invite one person, and print the link once.

    Admins invite to the registry; owners of an organisation invite to a role there.
    """
    with connect() as client:
        made = client.invite(org, role, label=label, expires_days=expires)
    console = Console(as_json, quiet)
    console.note(f"Send it to one person: it is not shown again, and ends {made.expires_at.astimezone():%Y-%m-%d}.")
    console.result(made, made.url, made.url)


@group.command()
def invitations(org: Space = None, limit: Limit = 50, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the invitations that nobody used, newest first."""
    with connect() as client:
        listed = list(client.invitations(org, limit=limit))
    rows = [
        (
            row.id,
            plain(row.label or row.asked_name or ""),
            f"{row.role} of {row.namespace}" if row.namespace else "an account",
            plain(row.created_by or ""),
            f"{row.expires_at.astimezone():%Y-%m-%d}",
        )
        for row in listed
    ]
    text = table(("id", "for", "gives", "by", "ends"), rows) if rows else "No invitation is open."
    Console(as_json, quiet).result(listed, text, "\n".join(row.id for row in listed))


@group.command()
def requests(limit: Limit = 50, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the requests to join that wait for an answer, newest first."""
    with connect() as client:
        listed = list(client.invitations(asked=True, limit=limit))
    rows = [
        (row.id, plain(row.asked_name or ""), f"{row.created_at.astimezone():%Y-%m-%d}", plain(row.message)[:80])
        for row in listed
    ]
    text = table(("id", "name", "asked", "message"), rows) if rows else "Nobody waits for an answer."
    Console(as_json, quiet).result(listed, text, "\n".join(row.id for row in listed))


@group.command()
def approve(request: Id, as_json: Json = False, quiet: Quiet = False) -> None:
    """Let somebody who asked join, by the address that they were given."""
    with connect() as client:
        done = client.approve_request(request)
    Console(as_json, quiet).result(done, f"{plain(done.asked_name or '')} may join by their address.", done.id)


@group.command()
def refuse(
    all_of_them: Annotated[bool, typer.Option("--all", help="All that wait now.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Refuse all requests to join; `crumb admin user revoke` refuses one."""
    if not all_of_them:
        raise typer.BadParameter("give --all to refuse all of them, or refuse one with `crumb admin user revoke ID`.")
    with connect() as client:
        newest = list(client.invitations(asked=True, limit=1))
        count = client.refuse_requests(newest[0].created_at) if newest else 0
    Console(as_json, quiet).result({"refused": count}, f"Refused {count} requests.", str(count))


@group.command()
def revoke(invitation: Id, org: Space = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Revoke an invitation, or refuse a request to join."""
    with connect() as client:
        client.revoke_invitation(invitation, org)
    Console(as_json, quiet).result({"id": invitation}, f"{plain(invitation)} leads nowhere from now on.", invitation)


@group.command(name="list")
def list_users(
    search: Annotated[
        str | None, typer.Option("--search", metavar="TEXT", help="Only names that contain this.")
    ] = None,
    limit: Limit = 50,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List users, by name."""
    with connect() as client:
        listed = list(client.users(search=search, limit=limit))
    rows = [
        (
            row.name,
            plain(row.display_name),
            " ".join(
                word
                for word, holds in (("admin", row.admin), ("program", row.program), ("disabled", not row.active))
                if holds
            ),
            f"{row.created_at.astimezone():%Y-%m-%d}",
        )
        for row in listed
    ]
    text = table(("name", "called", "is", "joined"), rows) if rows else "There are no such users."
    Console(as_json, quiet).result(listed, text, "\n".join(row.name for row in listed))


@group.command()
def disable(name: Name, as_json: Json = False, quiet: Quiet = False) -> None:
    """Disable a user from their next request on; what they made stays."""
    _set_active(name, False, as_json, quiet)


@group.command()
def enable(name: Name, as_json: Json = False, quiet: Quiet = False) -> None:
    """Enable a disabled user again."""
    _set_active(name, True, as_json, quiet)


def join(
    link: Annotated[str, typer.Argument(metavar="LINK", help="The link of an invitation.", show_default=False)],
    name: Annotated[str | None, typer.Option("--name", metavar="USER", help="The name of a new account.")] = None,
    display_name: Annotated[str, typer.Option("--display-name", metavar="TEXT", help="What to call you.")] = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Join a registry by an invitation, and log in there.

    With --name an account is made. Without it, the account that you are logged in with gets the role.
    """
    from client.api.client import Client
    from client.machine.config import Login, current, save
    from registry.errors import InvalidRequest

    url, _, _ = link.partition("/join?")
    secret = parse_qs(urlsplit(link).query).get("invitation", [""])[0]
    if not secret or url == link:
        raise InvalidRequest("This is not the link of an invitation, like https://crumbs.example.org/join?invitation=…")
    token = None if name is not None else current(url).token
    if name is None and token is None:
        raise InvalidRequest("Choose a name for your account with --name, or log in to the one that you have.")
    with Client(url, token) as client:
        joined = client.accept_invitation(secret, name, display_name=display_name)
        address = client.url
    if joined.token is not None:
        save(Login(address, joined.token, joined.user))
    role = f" You are {joined.role} of {joined.namespace}." if joined.namespace else ""
    text = f"Logged in at {address} as {plain(joined.user)}.{role}" if joined.token else role.strip()
    Console(as_json, quiet).result({**joined.model_dump(exclude={"token"}), "url": address}, text, plain(joined.user))


def profile(
    user: Annotated[str | None, typer.Argument(metavar="USER", help="A user; you, if left out.")] = None,
    display_name: Annotated[
        str | None, typer.Option("--display-name", metavar="TEXT", help="Be called so from now on.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a user and their newest patches.

    --display-name changes how you are called.
    """
    from registry.errors import InvalidRequest

    with connect() as client:
        if display_name is not None:
            if user is not None:
                raise InvalidRequest("--display-name is for yourself; leave USER out.")
            shown = client.update_profile(display_name)
        else:
            shown = client.profile(user or client.whoami().user)
    pairs = [("user", plain(shown.name)), ("called", plain(shown.display_name) or "-")]
    pairs += [("joined", f"{shown.created_at.astimezone():%Y-%m-%d}")]
    pairs += [("patch", f"{row.model}#{row.number}, {row.state}: {plain(row.title)}") for row in shown.patches]
    Console(as_json, quiet).result(shown, fields(pairs), shown.name)


def _set_active(name: str, active: bool, as_json: bool, quiet: bool) -> None:
    with connect() as client:
        done = client.set_user_active(name, active)
    word = "enabled" if done.active else "disabled"
    Console(as_json, quiet).result(done, f"{plain(done.name)} is {word}.", word)

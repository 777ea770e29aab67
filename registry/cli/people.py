"""token, user, namespace: who may use a registry, and how much of it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from registry.cli.common import ConfigFile, Data, Json, open_for, parse_size, prepare, settings_for

tokens = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Create and revoke tokens of users.")
users = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Disable and enable users.")
spaces = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show and set the quotas of namespaces.")


@tokens.command("create")
def token_create(
    user: Annotated[str, typer.Argument(help="Name of the user, who is created if new.")],
    data: Data = None,
    config: ConfigFile = None,
    admin: Annotated[bool, typer.Option("--admin", help="Make the user an admin of the registry.")] = False,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", metavar="S", help="read, push, review, release or admin; may be repeated.  [default: all]"
        ),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Label of the token in lists.")] = "",
    expires: Annotated[float, typer.Option(metavar="DAYS", help="Days until it expires.")] = 365,
    as_json: Json = False,
) -> None:
    """Create a token and print it. It is shown only once: the registry keeps only its hash."""
    from registry.services.people.rules import SCOPES
    from registry.services.people.tokens import create_token

    settings = settings_for(data, config)
    prepare(settings)
    with open_for(settings) as database, database.write() as session:
        secret, token = create_token(
            session, user, admin=admin, expires_days=expires, scopes=scope or SCOPES, label=label
        )
        ends = token.expires_at.isoformat() if token.expires_at else None
    print(json.dumps({"user": user, "token": secret, "expires_at": ends}) if as_json else secret)


@tokens.command("revoke")
def token_revoke(
    prefix: Annotated[str, typer.Argument(help="The first 9 characters of the token, as `crumb whoami` shows them.")],
    data: Data = None,
    config: ConfigFile = None,
) -> None:
    """Revoke a token at once."""
    from registry.services.people.tokens import revoke_token

    settings = settings_for(data, config)
    prepare(settings)
    with open_for(settings) as database, database.write() as session:
        user = revoke_token(session, prefix)
    print(f"The token of {user} is revoked.")


@users.command("disable")
def user_disable(
    user: Annotated[str, typer.Argument(help="Name of the user.")], data: Data = None, config: ConfigFile = None
) -> None:
    """Disable a user from their next request on; what they made stays."""
    set_active(user, data, config, active=False)


@users.command("enable")
def user_enable(
    user: Annotated[str, typer.Argument(help="Name of the user.")], data: Data = None, config: ConfigFile = None
) -> None:
    """Enable a disabled user again."""
    set_active(user, data, config, active=True)


def set_active(user: str, data: Path | None, config: Path | None, *, active: bool) -> None:
    """Enable or disable a user, and print the result."""
    from registry.services.people import namespaces

    settings = settings_for(data, config)
    prepare(settings)
    with open_for(settings) as database, database.write() as session:
        changed = namespaces.set_active(session, user, active)
    print(f"{user} is {'now' if changed else 'already'} {'enabled' if active else 'disabled'}.")


@spaces.command("quota")
def namespace_quota(
    name: Annotated[str, typer.Argument(help="A user or an organisation.")],
    data: Data = None,
    config: ConfigFile = None,
    most: Annotated[
        str | None, typer.Option("--bytes", metavar="SIZE", help="Most bytes, like 500GiB; 'default' for the server's.")
    ] = None,
    uploads: Annotated[
        str | None, typer.Option("--uploads", metavar="N", help="Most open uploads; 'default' for the server's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the quotas of a namespace and how much is used; set them with --bytes and --uploads."""
    from dataclasses import asdict

    from registry.services.blobs import quotas
    from registry.services.people import namespaces

    settings = settings_for(data, config)
    quota: dict[str, int | None] = {}
    if most is not None:
        quota["quota_bytes"] = None if most == "default" else parse_size(most, "bytes")
    if uploads is not None:
        quota["quota_uploads"] = None if uploads == "default" else parse_size(uploads, "uploads")
    prepare(settings)
    with open_for(settings) as database, database.write() as session:
        if quota:
            quotas.set_quota(session, name, quota)
        space = namespaces.find(session, name)
        usage = quotas.usage(session, space, settings.quota_bytes, settings.quota_uploads)
    if as_json:
        print(json.dumps({"namespace": name, **asdict(usage)}))
    else:
        print(f"{name} uses {usage.used_bytes} and reserves {usage.reserved_bytes} of {usage.quota_bytes} bytes.")
        print(f"{usage.open_uploads} of {usage.quota_uploads} uploads are open.")

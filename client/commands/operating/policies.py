"""admin policy, settings: what a registry asks of everybody, and its limits."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields, plain, table

if TYPE_CHECKING:
    from registry.schemas import Policy

ANY = "any"  # of an option: nothing is asked for


def policy(
    registration: Annotated[
        str | None,
        typer.Option("--registration", metavar="R", help="closed, invitation or open; any for the operator's setting."),
    ] = None,
    licenses: Annotated[
        list[str] | None,
        typer.Option("--license", metavar="L", help="A licence that is taken, like mit; any for all; may be repeated."),
    ] = None,
    drop_bottom: Annotated[
        str | None,
        typer.Option("--drop-bottom", metavar="X", help="Least share of the smallest changes a patch leaves out; any."),
    ] = None,
    drop_top: Annotated[
        str | None,
        typer.Option("--drop-top", metavar="X", help="Least share of the largest changes a patch leaves out; any."),
    ] = None,
    hub: Annotated[
        list[str] | None,
        typer.Option(
            "--hub", metavar="ORG/NAME", help="At the Hub, may be a base; ORG/*, any or none; may be repeated."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show or, as an admin, change what the registry asks of everybody from now on.

    Without options nothing changes. What was there before stays.
    """
    given = {"registration": registration, "min_drop_bottom": drop_bottom, "min_drop_top": drop_top}
    wanted: dict[str, Any] = {
        name: None if value == ANY else value for name, value in given.items() if value is not None
    }
    wanted |= {
        name: None if values == [ANY] else [value for value in values if value != "none"]
        for name, values in (("licenses", licenses), ("hub_models", hub))
        if values is not None
    }
    with connect() as client:
        shown = client.set_policy(**wanted) if wanted else client.policy()
    Console(as_json, quiet).result(shown, fields(_policy(shown)), shown.registration)


def settings(as_json: Json = False, quiet: Quiet = False) -> None:
    """List the limits that only the operator of the registry can change."""
    with connect() as client:
        listed = client.settings()
    rows = [(row.name, plain(row.value), plain(row.meaning)) for row in listed]
    Console(as_json, quiet).result(
        listed, table(("setting", "is", "meaning"), rows), "\n".join(f"{row.name}={row.value}" for row in listed)
    )


def _policy(shown: "Policy") -> list[tuple[str, str]]:
    closer = "" if shown.own_registration else " (by the operator's setting)"
    hub = shown.hub_models
    return [
        ("registration", shown.registration + closer),
        ("licences", ANY if shown.licenses is None else ", ".join(map(plain, shown.licenses))),
        ("drop bottom", f"at least {shown.min_drop_bottom}" if shown.min_drop_bottom else ANY),
        ("drop top", f"at least {shown.min_drop_top}" if shown.min_drop_top else ANY),
        ("from the Hub", ANY if hub is None else ", ".join(map(plain, hub)) or "none"),
    ]

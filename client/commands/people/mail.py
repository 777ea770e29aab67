"""mail show, set, confirm, forget: news by e-mail."""

from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Quiet, connect
from client.terminal.console import Console, fields, plain

if TYPE_CHECKING:
    from registry import schemas

group = typer.Typer(name="mail", help="Your news by e-mail.", no_args_is_help=True, rich_markup_mode=None)
WORDS = {"at_once": "as soon as something happens", "daily": "once a day, if anything is new", "off": "never"}


@group.command()
def show(as_json: Json = False, quiet: Quiet = False) -> None:
    """Show where your news go."""
    with connect() as client:
        _print(client.mail(), as_json, quiet)


@group.command(name="set")
def set_address(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Your e-mail address.", show_default=False)],
    at_once: Annotated[bool, typer.Option("--at-once", help="A mail as soon as something happens.")] = False,
    off: Annotated[bool, typer.Option("--off", help="No mails, for now.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Have your news sent to an address, in one mail a day.

    An address that you have not confirmed yet is first sent a link.
    """
    if at_once and off:
        raise typer.BadParameter("give --at-once or --off, not both.")
    with connect() as client:
        _print(client.set_mail(address, "at_once" if at_once else "off" if off else "daily"), as_json, quiet)


@group.command()
def confirm(
    link: Annotated[str, typer.Argument(metavar="LINK", help="The link that was sent to you.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Confirm your address by the link that was sent there, instead of opening it."""
    with connect() as client:
        _print(client.confirm_mail(link.rpartition("link=")[2]), as_json, quiet)


@group.command()
def forget(as_json: Json = False, quiet: Quiet = False) -> None:
    """Delete your address, so that no mail is sent there any more."""
    with connect() as client:
        client.forget_mail()
    Console(as_json, quiet).result({"address": None}, "Your address is deleted.", "")


def _print(found: "schemas.MailSettings", as_json: bool, quiet: bool) -> None:
    states = {
        "none": "no address is set",
        "asked": "a link is sent there soon",
        "sent": "waits for you to open the link that was sent there",
        "verified": "confirmed",
        "refused": f"refused by the mail server: {plain(found.answer)}",
    }
    pairs = [("address", plain(found.address or "-")), ("state", states[found.state]), ("news", WORDS[found.rhythm])]
    if not found.sends:
        pairs.append(("note", "this registry sends no mails"))
    Console(as_json, quiet).result(found, fields(pairs), found.state)

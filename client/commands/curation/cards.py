"""card show, list, propose, accept, reject, withdraw: a model's card, and proposals of another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.curation.reviews import Message, Number, Why
from client.commands.options import Json, Limit, Model, Quiet, connect
from client.terminal.console import Console, fields, plain

if TYPE_CHECKING:
    from registry.schemas import CardProposal

group = typer.Typer(name="card", help="Change a model's card.", no_args_is_help=True, rich_markup_mode=None)


@group.command()
def show(
    model: Model,
    number: Annotated[
        str | None, typer.Argument(metavar="[N]", help="One that is proposed.", show_default=False)
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Print a model's card, or what a proposed one changes in it."""
    from client.terminal.addresses import parse_number

    console = Console(as_json, quiet)
    with connect() as client:
        if number is None:
            text = client.model(model).card or ""
            console.result({"model": model, "card": text}, plain(text.strip(), lines=True))
            return
        found = client.card(model, parse_number(number))
    lines = [("card", f"{found.model}#{found.number}, {found.state}"), ("title", plain(found.title))]
    lines += [("author", plain(found.author)), *([("why", plain(found.reason))] if found.reason else [])]
    parts = [fields(lines), plain(found.message.strip(), lines=True), plain(found.diff or "", lines=True)]
    console.result(found, "\n\n".join(filter(None, [*parts, _licence(found)])), found.state)


@group.command(name="list")
def list_cards(
    model: Model,
    state: Annotated[
        str | None, typer.Option("--state", metavar="S", help="Only proposed, accepted, ... ones.")
    ] = None,
    limit: Limit = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the cards that were proposed, newest first."""
    with connect() as client:
        found = list(client.cards(model, state=state, limit=limit))
    lines = [f"#{card.number} {card.state}: {plain(card.title)} ({plain(card.author)})" for card in found]
    text = "\n".join(lines) or "No card was proposed."
    Console(as_json, quiet).result(found, text, "\n".join(str(card.number) for card in found))


@group.command()
def propose(
    model: Model,
    card: Annotated[Path, typer.Argument(metavar="README.md", help="The whole card.", show_default=False)],
    title: Annotated[str, typer.Option("--message", "-m", metavar="TITLE", help="One line on what it changes.")],
    update: Annotated[
        str | None, typer.Option("--update", metavar="N", help="In place of what you proposed as N.")
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Change the card at once, as a maintainer of the model.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Propose another card for a model.

    A maintainer accepts or rejects it. The README.md of the base and of releases never changes; the next release takes
    over what the front matter of the card says.
    """
    from client.machine.sources import read_text
    from client.terminal.addresses import parse_number
    from registry.files.beside import CARD_BYTES

    if update is not None and accept:
        raise typer.BadParameter("give --update or --accept, not both.")
    text = read_text(card, CARD_BYTES)
    with connect() as client:
        if update is not None:
            done = client.revise_card(model, parse_number(update), text, title)
        else:
            done = client.propose_card(model, text, title, accept=accept)
    following = f"next: a maintainer runs crumb card accept {model} {done.number}" if done.state == "proposed" else ""
    _print(Console(as_json, quiet), done, following, _licence(done))


@group.command()
def accept(model: Model, number: Number, message: Message = "", as_json: Json = False, quiet: Quiet = False) -> None:
    """Make a proposed card that of the model."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        seen = client.card(model, parse_number(number))
        done = client.accept_card(model, seen.number, message, sha256=seen.sha256)
    _print(Console(as_json, quiet), done, _licence(done))


@group.command()
def reject(model: Model, number: Number, message: Why, as_json: Json = False, quiet: Quiet = False) -> None:
    """Reject a proposed card."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.reject_card(model, parse_number(number), message)
    _print(Console(as_json, quiet), done)


@group.command()
def withdraw(model: Model, number: Number, message: Message = "", as_json: Json = False, quiet: Quiet = False) -> None:
    """Withdraw the card that you proposed."""
    from client.terminal.addresses import parse_number

    with connect() as client:
        done = client.withdraw_card(model, parse_number(number), message)
    _print(Console(as_json, quiet), done)


def _print(console: Console, card: "CardProposal", *lines: str) -> None:
    head = f"{card.model}#{card.number}  {card.state}"
    console.result(card, "\n".join(filter(None, [head, *lines])), str(card.number))


def _licence(card: "CardProposal") -> str:
    """Return a note if a card names another licence than the model has."""
    if card.license is None:
        return ""
    return f"It names the licence {card.license}; the model keeps its own (crumb model set {card.model} --license)."

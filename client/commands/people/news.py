"""news, watch: mentions, and what happens in models."""

from typing import Annotated

import typer

from client.commands.options import Json, Model, Quiet, connect
from client.terminal.console import Console, plain, table


def news(
    seen: Annotated[bool, typer.Option("--seen", help="Mark all of it as read.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show mentions of you, and news of models that you watch."""
    with connect() as client:
        found = client.news()
        if seen:
            client.see_news(found)
    rows = [(f"{row.model}#{row.number}", "mentioned you", plain(row.by), row.at) for row in found.mentions]
    rows += [(plain(row.subject), row.event, plain(row.user or ""), row.at) for row in found.events]
    shown = [(*words, f"{at.astimezone():%Y-%m-%d %H:%M}") for *words, at in rows]
    text = table(("where", "what", "by", "when"), shown) if shown else "Nothing is new."
    Console(as_json, quiet).result(found, text, "\n".join(row[0] for row in shown))


def watch(
    model: Model,
    end: Annotated[bool, typer.Option("--end", help="Stop watching it.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Have what is proposed and released in a model in your news."""
    with connect() as client:
        client.watch(model, not end)
    text = f"You do not watch {model} any more." if end else f"You watch {model}; `crumb news` has what happens there."
    Console(as_json, quiet).result({"model": model, "watching": not end}, text, model)

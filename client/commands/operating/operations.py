"""webhook create, list, on, off, delete, test, deliveries, replay; audit; changes: the events of models."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from client.commands.options import Json, Limit, Model, Quiet, connect
from client.terminal.console import Console, plain, table

if TYPE_CHECKING:
    from registry.schemas import WebhookDelivery

webhooks = typer.Typer(
    name="webhook", help="Send the events of a model to an address.", no_args_is_help=True, rich_markup_mode=None
)
Hook = Annotated[str, typer.Argument(metavar="ID", help="The webhook's id.", show_default=False)]


@webhooks.command()
def create(
    model: Model,
    url: Annotated[str, typer.Argument(metavar="URL", help="The address that events are sent to.", show_default=False)],
    events: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="E", help="Like release.publish or patch.*; by default all; may be repeated."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send the events of a model to an address.

    They are signed with a secret that is printed once.
    """
    with connect() as client:
        webhook = client.create_webhook(model, url, events or ["*"])
    console = Console(as_json, quiet)
    console.note("The secret signs every delivery; keep it: it is not shown again.")
    console.result(webhook, f"webhook  {webhook.id}\nsecret   {webhook.secret}", webhook.secret)


@webhooks.command(name="list")
def list_webhooks(model: Model, as_json: Json = False, quiet: Quiet = False) -> None:
    """List a model's webhooks."""
    with connect() as client:
        hooks = client.webhooks(model)
    rows = [(row.id, "on" if row.active else "off", " ".join(row.events), plain(row.url)) for row in hooks]
    text = table(("id", "is", "events", "url"), rows) if rows else f"{model} has no webhooks."
    Console(as_json, quiet).result(hooks, text, "\n".join(row.id for row in hooks))


@webhooks.command()
def on(model: Model, webhook: Hook, as_json: Json = False, quiet: Quiet = False) -> None:
    """Turn a webhook on."""
    with connect() as client:
        done = client.update_webhook(model, webhook, active=True)
    Console(as_json, quiet).result(done, f"{done.id} is on.", done.id)


@webhooks.command()
def off(model: Model, webhook: Hook, as_json: Json = False, quiet: Quiet = False) -> None:
    """Turn a webhook off."""
    with connect() as client:
        done = client.update_webhook(model, webhook, active=False)
    Console(as_json, quiet).result(done, f"{done.id} is off.", done.id)


@webhooks.command()
def delete(model: Model, webhook: Hook, as_json: Json = False, quiet: Quiet = False) -> None:
    """Remove a webhook."""
    with connect() as client:
        client.delete_webhook(model, webhook)
    Console(as_json, quiet).result({"id": webhook}, f"{webhook} is removed.", webhook)


@webhooks.command()
def test(model: Model, webhook: Hook, as_json: Json = False, quiet: Quiet = False) -> None:
    """Send a ping to a webhook."""
    with connect() as client:
        sent = client.test_webhook(model, webhook)
    Console(as_json, quiet).result(sent, f"On its way as {sent.id}; see `crumb webhook deliveries`.", sent.id)


@webhooks.command()
def deliveries(model: Model, webhook: Hook, limit: Limit = 20, as_json: Json = False, quiet: Quiet = False) -> None:
    """List the deliveries to a webhook, newest first."""
    with connect() as client:
        sent = list(client.webhook_deliveries(model, webhook, limit=limit))
    rows = [_delivery(row) for row in sent]
    text = (
        table(("id", "event", "state", "tries", "status", "answer"), rows, right=(3,))
        if rows
        else "There are no deliveries yet."
    )
    Console(as_json, quiet).result(sent, text, "\n".join(row.id for row in sent))


@webhooks.command()
def replay(
    model: Model,
    webhook: Hook,
    delivery: Annotated[str, typer.Argument(metavar="DELIVERY", help="Its id.", show_default=False)],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Send a delivery's event again."""
    with connect() as client:
        sent = client.replay_delivery(model, webhook, delivery)
    Console(as_json, quiet).result(sent, f"On its way again as {sent.id}.", sent.id)


def audit(
    model: Annotated[
        str | None,
        typer.Argument(metavar="[NS/NAME]", help="The model; without it all models, for admins.", show_default=False),
    ] = None,
    action: Annotated[
        str | None, typer.Option("--action", metavar="A", help="Only this action, like patch.yank.")
    ] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="USER", help="Only by this user.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the audit log, newest first.

    Maintainers see that of their model; admins see that of every model.
    """
    with connect() as client:
        events = list(client.audit(model, action=action, user=user, limit=limit))
    rows = [
        (
            str(row.serial),
            f"{row.at.astimezone():%Y-%m-%d %H:%M:%S}",
            plain(row.user or "the registry"),
            row.action,
            plain(row.subject),
            plain(json.dumps(row.after))[:80] if row.after else "",
        )
        for row in events
    ]
    text = table(("serial", "when", "who", "what", "to", "now"), rows, right=(0,)) if rows else "Nothing yet."
    Console(as_json, quiet).result(events, text, "\n".join(f"{row.serial} {row.action}" for row in events))


def changes(
    since: Annotated[int, typer.Option("--since", metavar="SERIAL", min=0, help="Only changes after this serial.")] = 0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most this many.")] = 100,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the changes at the registry, in order.

    For mirrors: `next` in the JSON is the --since of the next call.
    """
    with connect() as client:
        page = client.changes(since, limit)
    rows = [
        (str(row.serial), f"{row.at.astimezone():%Y-%m-%d %H:%M:%S}", row.action, plain(row.subject))
        for row in page.items
    ]
    text = table(("serial", "when", "what", "to"), rows, right=(0,)) if rows else "Nothing new."
    Console(as_json, quiet).result(page, text, str(page.next))


def _delivery(row: "WebhookDelivery") -> tuple[str, ...]:
    status = str(row.status) if row.status is not None else ""
    return row.id, row.event, row.state, str(row.attempts), status, plain(row.answer or "")[:60]

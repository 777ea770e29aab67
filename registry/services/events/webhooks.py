"""Webhooks of models: the addresses that events are sent to, which events, and how they are turned on and off.

What is sent, and how often, is in deliveries.py and payloads.py.
"""

import base64
import re
import secrets
import uuid
from collections.abc import Collection, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.audit import newest_serial
from registry.db.tables import Model, User, Webhook
from registry.errors import InvalidRequest, NotFound, WrongState
from registry.outside.egress import check_url
from registry.services.catalog import models
from registry.services.people.actors import Actor, record

NOUNS = ("card", "channel", "evaluation", "job", "model", "patch", "recipe", "release")
MOST_WEBHOOKS = 20  # of a model


def create(
    session: Session, actor: Actor, full_name: str, url: str, events: Sequence[str], *, private: bool
) -> Webhook:
    """Create a webhook of a model, which gets the events from now on; its secret is shown only once.

    Args:
        session: A writing transaction.
        actor: The caller.
        full_name: `namespace/name`.
        url: The address to send events to.
        events: Actions, `noun.*` for all of a noun, or `*`.
        private: Whether the registry may call its own network.

    Raises:
        InvalidRequest: The address may not be called, or an event is not valid.
        WrongState: The model has as many webhooks as it may have.
    """
    target = check_url(url, private=private)
    check_events(events)
    model = models.find(session, full_name, lock=True)
    if session.scalar(select(func.count()).select_from(Webhook).where(Webhook.model_id == model.id)) == MOST_WEBHOOKS:
        raise WrongState(f"{full_name} has {MOST_WEBHOOKS} webhooks, the most allowed; delete one first.")
    webhook = Webhook(
        model_id=model.id,
        creator_id=actor.user_id,
        url=url,
        secret=f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
        events=list(dict.fromkeys(events)),
        cursor=newest_serial(session),
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook, ["created_at"])
    # The path of the address is left out, since it is often a secret, too.
    after = {"webhook": str(webhook.id), "url": f"{target.scheme}://{target.netloc}", "events": webhook.events}
    record(session, actor, "webhook.create", full_name, model, after=after)
    return webhook


def check_events(events: Sequence[str]) -> None:
    """Refuse patterns that match no event.

    Raises:
        InvalidRequest: A pattern is not valid; the message names it.
    """
    for pattern in events:
        noun, _, verb = pattern.partition(".")
        if pattern != "*" and (noun not in NOUNS or not re.fullmatch(r"\*|[a-z_]+", verb)):
            raise InvalidRequest(
                f"'{pattern}' is not an event: give '*', or one like 'release.publish' or 'patch.*' "
                f"of {', '.join(NOUNS)}.",
                field="events",
            )


def matches(events: Collection[str], action: str) -> bool:
    """Say whether a webhook with these events gets an action; actions on tokens and webhooks are never sent."""
    noun = action.partition(".")[0]
    return noun in NOUNS and not {"*", action, f"{noun}.*"}.isdisjoint(events)


def listing(session: Session, full_name: str) -> Sequence[tuple[Webhook, str]]:
    """Return a model's webhooks, oldest first, each with the name of its creator."""
    model = models.find(session, full_name)
    query = (
        select(Webhook, User.name)
        .join(User, User.id == Webhook.creator_id)
        .where(Webhook.model_id == model.id)
        .order_by(Webhook.created_at, Webhook.id)
    )
    return [(webhook, name) for webhook, name in session.execute(query)]


def find(session: Session, full_name: str, webhook_id: uuid.UUID, *, lock: bool = False) -> tuple[Webhook, Model, str]:
    """Return a webhook, its model, and the name of its creator.

    Raises:
        NotFound: The model has no such webhook.
    """
    model = models.find(session, full_name)
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.model_id == model.id)
    webhook = session.scalar(query.with_for_update() if lock else query)
    if webhook is None:
        raise NotFound(f"{full_name} has no such webhook; see `crumb webhook list {full_name}`.")
    return webhook, model, session.get_one(User, webhook.creator_id).name


def set_active(session: Session, actor: Actor, full_name: str, webhook_id: uuid.UUID, active: bool) -> None:
    """Turn a webhook on or off. Does nothing if that is already so."""
    webhook, model, _ = find(session, full_name, webhook_id, lock=True)
    if webhook.active == active:
        return
    webhook.active = active
    if active:
        webhook.cursor = newest_serial(session)
    session.flush()
    before, after = ({"webhook": str(webhook.id), "active": state} for state in (not active, active))
    record(session, actor, "webhook.update", full_name, model, before=before, after=after)


def remove(session: Session, actor: Actor, full_name: str, webhook_id: uuid.UUID) -> None:
    """Delete a webhook and its deliveries."""
    webhook, model, _ = find(session, full_name, webhook_id, lock=True)
    before = {"webhook": str(webhook.id), "events": webhook.events}
    session.delete(webhook)
    session.flush()
    record(session, actor, "webhook.delete", full_name, model, before=before)

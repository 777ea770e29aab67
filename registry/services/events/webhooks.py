"""Webhooks: who is told of a model's events, and how far each telling has come.

    audit event ── collect: matches, after the cursor ──> pending ── 2xx ──> delivered
                                                     claim │   ^ └── eight attempts ──> failed
                                                           └───┘ another answer, or none: due later, with growing pauses

An event becomes a delivery in the transaction that moves the webhook's cursor past it, and a delivery is due again
from the moment it is claimed: whatever dies, an event is told once or more, never not at all. What happens while a
webhook is off is not told.
"""

import random
import re
import secrets
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, and_, delete, exists, func, or_, select
from sqlalchemy.orm import Session, joinedload

from registry.db.audit import append_pending
from registry.db.tables import AuditEvent, AuditHead, Model, User, Webhook, WebhookDelivery, now
from registry.errors import InvalidRequest, NotFound, TooMany, WrongState
from registry.outside.egress import Reply, check_url
from registry.services.catalog import models
from registry.services.people.actors import Actor, record

NOUNS = ("channel", "evaluation", "job", "model", "patch", "recipe", "release")
MOST = 20  # webhooks of a model
MOST_WAITING = 100  # deliveries of a webhook, beyond which nobody may ask for more
PAGE = 100
ATTEMPTS = 8
PAUSE = timedelta(seconds=15)  # after the first attempt; each later one is four times as long, a day in all
LEASE = timedelta(seconds=60)  # longer than any attempt


@dataclass(frozen=True)
class DueDelivery:
    """A delivery in a courier's hands."""

    delivery_id: uuid.UUID
    webhook_id: uuid.UUID
    attempt: int
    url: str
    secret: str
    event: str
    serial: int


def create(
    session: Session, actor: Actor, full_name: str, url: str, events: Sequence[str], *, private: bool
) -> Webhook:
    """Make a webhook of a model, which is told of what happens from now on; its secret is shown this once.

    Args:
        session: A writing transaction.
        actor: Who.
        full_name: `namespace/name`.
        url: Where to.
        events: Actions, `noun.*` for all of a noun, or `*`.
        private: Whether the registry may call its own network.

    Raises:
        InvalidRequest: the address may not be called, or an event is none.
        WrongState: the model has enough webhooks.
    """
    target = check_url(url, private=private)
    check_events(events)
    model = models.find(session, full_name, lock=True)
    if session.scalar(select(func.count()).select_from(Webhook).where(Webhook.model_id == model.id)) == MOST:
        raise WrongState(f"{full_name} has {MOST} webhooks, and no more are possible; delete one.")
    webhook = Webhook(
        model_id=model.id,
        creator_id=actor.user_id,
        url=url,
        secret=f"whsec_{secrets.token_urlsafe(32)}",
        events=list(dict.fromkeys(events)),
        cursor=head(session),
    )
    session.add(webhook)
    session.flush()
    session.refresh(webhook, ["created_at"])
    # The path of an address is often a secret, too.
    after = {"webhook": str(webhook.id), "url": f"{target.scheme}://{target.netloc}", "events": webhook.events}
    record(session, actor, "webhook.create", full_name, model, after=after)
    return webhook


def check_events(events: Sequence[str]) -> None:
    """Refuse what no event is called.

    Raises:
        InvalidRequest: names it.
    """
    for pattern in events:
        noun, _, verb = pattern.partition(".")
        if pattern != "*" and (noun not in NOUNS or not re.fullmatch(r"\*|[a-z_]+", verb)):
            raise InvalidRequest(
                f"'{pattern}' is no event: give '*', or one like 'release.publish' or 'patch.*' of {', '.join(NOUNS)}.",
                field="events",
            )


def matches(events: Collection[str], action: str) -> bool:
    """Say whether an action is among what a webhook is told of; tokens and webhooks themselves never are."""
    noun = action.partition(".")[0]
    return noun in NOUNS and not {"*", action, f"{noun}.*"}.isdisjoint(events)


def head(session: Session) -> int:
    """Return the serial of the last event."""
    return session.scalars(select(AuditHead.serial).where(AuditHead.id == 1)).one()


def listing(session: Session, full_name: str) -> Sequence[tuple[Webhook, str]]:
    """Return a model's webhooks, oldest first, each with the name of who made it."""
    model = models.find(session, full_name)
    query = (
        select(Webhook, User.name)
        .join(User, User.id == Webhook.creator_id)
        .where(Webhook.model_id == model.id)
        .order_by(Webhook.created_at, Webhook.id)
    )
    return [(webhook, name) for webhook, name in session.execute(query)]


def find(session: Session, full_name: str, webhook_id: uuid.UUID, *, lock: bool = False) -> tuple[Webhook, Model, str]:
    """Return a webhook, its model, and the name of who made it.

    Raises:
        NotFound: the model has none by that id.
    """
    model = models.find(session, full_name)
    query = select(Webhook).where(Webhook.id == webhook_id, Webhook.model_id == model.id)
    webhook = session.scalar(query.with_for_update() if lock else query)
    if webhook is None:
        raise NotFound(f"{full_name} has no such webhook; see `crumb webhook list {full_name}`.")
    return webhook, model, session.get_one(User, webhook.creator_id).name


def set_active(session: Session, actor: Actor, full_name: str, webhook_id: uuid.UUID, active: bool) -> None:
    """Turn a webhook on or off; what is so already changes nothing."""
    webhook, model, _ = find(session, full_name, webhook_id, lock=True)
    if webhook.active == active:
        return
    webhook.active = active
    if active:
        webhook.cursor = head(session)
    session.flush()
    was, is_now = {"webhook": str(webhook.id), "active": not active}, {"webhook": str(webhook.id), "active": active}
    record(session, actor, "webhook.update", full_name, model, before=was, after=is_now)


def remove(session: Session, actor: Actor, full_name: str, webhook_id: uuid.UUID) -> None:
    """Delete a webhook and its deliveries."""
    webhook, model, _ = find(session, full_name, webhook_id, lock=True)
    before = {"webhook": str(webhook.id), "events": webhook.events}
    session.delete(webhook)
    session.flush()
    record(session, actor, "webhook.delete", full_name, model, before=before)


def deliveries(
    session: Session, full_name: str, webhook_id: uuid.UUID, before: uuid.UUID | None, limit: int
) -> tuple[list[WebhookDelivery], uuid.UUID | None]:
    """Return a page of a webhook's deliveries with their events, newest first, and the cursor of the next page."""
    webhook, _, _ = find(session, full_name, webhook_id)
    query = (
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id)
        .options(joinedload(WebhookDelivery.event))
        .order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
    )
    if before is not None:
        last = find_delivery(session, full_name, webhook, before)
        same = and_(WebhookDelivery.created_at == last.created_at, WebhookDelivery.id < last.id)
        query = query.where(or_(WebhookDelivery.created_at < last.created_at, same))
    found = list(session.scalars(query.limit(limit + 1)))
    return found[:limit], found[limit - 1].id if len(found) > limit else None


def find_delivery(session: Session, full_name: str, webhook: Webhook, delivery_id: uuid.UUID) -> WebhookDelivery:
    """Return a delivery of a webhook with its event.

    Raises:
        NotFound: there is none by that id.
    """
    found = session.scalar(
        select(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook.id)
        .options(joinedload(WebhookDelivery.event))
    )
    if found is None:
        raise NotFound(f"The webhook {webhook.id} of {full_name} has no such delivery.")
    return found


def replay(
    session: Session, actor: Actor, full_name: str, webhook_id: uuid.UUID, delivery_id: uuid.UUID
) -> WebhookDelivery:
    """Tell a webhook of an event again, whatever became of the first time.

    Raises:
        NotFound: there is no such delivery.
        WrongState: the webhook is off.
        TooMany: too much is on its way to it already.
    """
    webhook, model, _ = find(session, full_name, webhook_id, lock=True)
    require_room(session, full_name, webhook)
    event = find_delivery(session, full_name, webhook, delivery_id).event
    same = WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.event_serial == event.serial
    last = session.scalars(select(func.max(WebhookDelivery.replay)).where(*same)).one() or 0
    delivery = add(session, webhook, event, last + 1)
    session.flush()
    after = {"webhook": str(webhook.id), "serial": event.serial, "replay": delivery.replay}
    record(session, actor, "webhook.replay", full_name, model, after=after)
    return delivery


def ping(session: Session, actor: Actor, full_name: str, webhook_id: uuid.UUID) -> WebhookDelivery:
    """Tell a webhook that it works: the event is this very call.

    Raises:
        WrongState: the webhook is off.
        TooMany: too much is on its way to it already.
    """
    webhook, model, _ = find(session, full_name, webhook_id, lock=True)
    require_room(session, full_name, webhook)
    record(session, actor, "webhook.test", full_name, model, after={"webhook": str(webhook.id)})
    append_pending(session)  # now, for its serial
    event = session.scalars(select(AuditEvent).where(AuditEvent.serial == head(session))).one()
    delivery = add(session, webhook, event, 0)
    session.flush()
    return delivery


def require_room(session: Session, full_name: str, webhook: Webhook) -> None:
    """Refuse to send more to a webhook that is off or far behind.

    Raises:
        WrongState: it is off.
        TooMany: it is far behind.
    """
    if not webhook.active:
        raise WrongState(f"This webhook of {full_name} is off; turn it on first.")
    waiting = WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.state == "pending"
    if session.scalars(select(func.count()).select_from(WebhookDelivery).where(*waiting)).one() >= MOST_WAITING:
        raise TooMany(f"{MOST_WAITING} deliveries to this webhook are waiting; ask again once they are done.")


def add(session: Session, webhook: Webhook, event: AuditEvent, number: int) -> WebhookDelivery:
    """Add a delivery, due at once."""
    at = now()
    delivery = WebhookDelivery(
        webhook_id=webhook.id, event_serial=event.serial, event=event, replay=number, created_at=at, due_at=at
    )
    session.add(delivery)
    return delivery


def collectable(session: Session) -> Any:
    """Return the condition for the webhooks that have not seen all events."""
    return and_(Webhook.active, Webhook.cursor < head(session))


def waiting(session: Session, resting: Collection[uuid.UUID] = ()) -> bool:
    """Say whether there is anything to collect or to send, without locking anything."""
    query = select(or_(exists().where(collectable(session)), due(resting).exists()))
    return bool(session.scalar(query))


def collect(session: Session) -> int:
    """Make deliveries of the events that webhooks have not seen; return how many webhooks were looked after.

    Webhooks in another courier's hands are left to it.
    """
    last = head(session)
    found = session.scalars(
        select(Webhook)
        .where(Webhook.active, Webhook.cursor < last)
        .order_by(Webhook.cursor)
        .limit(PAGE)
        .with_for_update(skip_locked=True)
    ).all()
    for webhook in found:
        events = session.scalars(
            select(AuditEvent)
            .where(
                AuditEvent.model_id == webhook.model_id, AuditEvent.serial > webhook.cursor, AuditEvent.serial <= last
            )
            .order_by(AuditEvent.serial)
            .limit(PAGE)
        ).all()
        for event in events:
            if matches(webhook.events, event.action):
                add(session, webhook, event, 0)
        webhook.cursor = events[-1].serial if len(events) == PAGE else last
    session.flush()
    return len(found)


def due(resting: Collection[uuid.UUID] = ()) -> Any:
    """Return a query for the deliveries that are due, but for those of some webhooks."""
    return (
        select(WebhookDelivery)
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .where(
            WebhookDelivery.state == "pending",
            WebhookDelivery.due_at <= now(),
            Webhook.active,
            Webhook.id.not_in(resting),
        )
    )


def claim(session: Session, resting: Collection[uuid.UUID], most: int) -> list[DueDelivery]:
    """Take deliveries that are due, at most one of each webhook, and none of those that rest.

    Each is due again when the lease ends, should its courier die. Two couriers never take the same one.
    """
    claims: list[DueDelivery] = []
    while len(claims) < most:
        taken = {*resting, *(found.webhook_id for found in claims)}
        delivery = session.scalar(
            due(taken)
            .order_by(WebhookDelivery.due_at)
            .limit(1)
            .options(joinedload(WebhookDelivery.webhook), joinedload(WebhookDelivery.event))
            .with_for_update(skip_locked=True, of=WebhookDelivery)
        )
        if delivery is None:
            break
        delivery.attempts += 1
        delivery.due_at = now() + LEASE
        webhook, event = delivery.webhook, delivery.event
        claims.append(
            DueDelivery(
                delivery.id, webhook.id, delivery.attempts, webhook.url, webhook.secret, event.action, event.serial
            )
        )
    session.flush()
    return claims


def finish(session: Session, claim: DueDelivery, reply: Reply) -> str | None:
    """Write down what came of an attempt; return the delivery's state, or None when it is not there any more.

    A success counts whoever had it. A failure counts only while nobody else has the delivery.
    """
    delivery = session.get(WebhookDelivery, claim.delivery_id, with_for_update=True, populate_existing=True)
    if delivery is None:
        return None
    arrived = 200 <= reply.status < 300
    if delivery.state != "pending" or (delivery.attempts != claim.attempt and not arrived):
        return delivery.state
    delivery.status, delivery.answer = reply.status or None, reply.text
    if arrived:
        delivery.state, delivery.delivered_at = "delivered", now()
    elif delivery.attempts >= ATTEMPTS:
        delivery.state = "failed"
    else:
        delivery.due_at = now() + pause(delivery.attempts)
    session.flush()
    return delivery.state


def pause(attempts: int) -> timedelta:
    """Return how long to wait after so many attempts: from 15 seconds to 17 hours, a little more or less by chance."""
    return PAUSE * float(4 ** (attempts - 1)) * random.uniform(0.8, 1.2)  # noqa: S311


def forget(session: Session, before: datetime) -> int:
    """Delete deliveries that ended and are older than some time; return how many."""
    old = WebhookDelivery.state != "pending", WebhookDelivery.created_at < before
    gone = session.execute(delete(WebhookDelivery).where(*old))
    assert isinstance(gone, CursorResult)
    return gone.rowcount

"""Deliveries of events to webhooks: made from the audit log, claimed by couriers, retried.

    audit event ── collect: matches, after the cursor ──> pending ── 2xx ──> delivered
                                                     claim │   ^ └── eight attempts ──> failed
                                                           └───┘ another answer, or none: due later, ever longer

An event becomes a delivery in the transaction that moves the webhook's cursor past it, and a claimed delivery is due
again after its lease. So every event is delivered at least once, whatever crashes. Events that happen while a webhook
is off are not delivered.
"""

import random
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, and_, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session, joinedload

from registry.db.audit import append_pending, newest_serial
from registry.db.tables import AuditEvent, Webhook, WebhookDelivery, now
from registry.errors import NotFound, TooMany, WrongState
from registry.outside.egress import Reply
from registry.services.events import webhooks
from registry.services.people import paging
from registry.services.people.actors import Actor, record

MOST_PENDING = 100  # deliveries of a webhook, beyond which nobody may ask for more
COLLECTED_AT_ONCE = 100  # webhooks, and events of each
MOST_ATTEMPTS = 8
FIRST_PAUSE = timedelta(seconds=15)  # each later pause is four times as long; all of them take a day
MOST_VARIED = 1.2  # times a pause
LEASE = timedelta(seconds=60)  # longer than any attempt


@dataclass(frozen=True)
class DueDelivery:
    """A delivery that a courier has claimed."""

    delivery_id: uuid.UUID
    webhook_id: uuid.UUID
    attempt: int
    url: str
    secret: str
    event: str
    serial: int


def listing(
    session: Session, full_name: str, webhook_id: uuid.UUID, before: uuid.UUID | None, limit: int
) -> tuple[list[WebhookDelivery], uuid.UUID | None]:
    """Return a page of a webhook's deliveries with their events, newest first, and the cursor of the next page."""
    webhook, _, _ = webhooks.find(session, full_name, webhook_id)
    query = (
        select(WebhookDelivery)
        .where(WebhookDelivery.webhook_id == webhook.id)
        .options(joinedload(WebhookDelivery.event))
        .order_by(WebhookDelivery.created_at.desc(), WebhookDelivery.id.desc())
    )
    if before is not None:
        last = find(session, full_name, webhook, before)
        same = and_(WebhookDelivery.created_at == last.created_at, WebhookDelivery.id < last.id)
        query = query.where(or_(WebhookDelivery.created_at < last.created_at, same))
    return paging.cut(session.scalars(query.limit(limit + 1)).all(), limit, lambda delivery: delivery.id)


def find(session: Session, full_name: str, webhook: Webhook, delivery_id: uuid.UUID) -> WebhookDelivery:
    """Return a delivery of a webhook with its event.

    Raises:
        NotFound: The webhook has no such delivery.
    """
    delivery = session.scalar(
        select(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.webhook_id == webhook.id)
        .options(joinedload(WebhookDelivery.event))
    )
    if delivery is None:
        raise NotFound(f"The webhook {webhook.id} of {full_name} has no such delivery; see `crumb webhook deliveries`.")
    return delivery


def replay(
    session: Session, actor: Actor, full_name: str, webhook_id: uuid.UUID, delivery_id: uuid.UUID
) -> WebhookDelivery:
    """Send an event to a webhook again, whatever the state of its first delivery.

    Raises:
        NotFound: The webhook has no such delivery.
        WrongState: The webhook is off.
        TooMany: Too many deliveries to the webhook are pending.
    """
    webhook, model, _ = webhooks.find(session, full_name, webhook_id, lock=True)
    require_room(session, full_name, webhook)
    event = find(session, full_name, webhook, delivery_id).event
    same = WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.event_serial == event.serial
    last = session.scalars(select(func.max(WebhookDelivery.replay)).where(*same)).one() or 0
    delivery = add(session, webhook, event, last + 1)
    session.flush()
    after = {"webhook": str(webhook.id), "serial": event.serial, "replay": delivery.replay}
    record(session, actor, "webhook.replay", full_name, model, after=after)
    return delivery


def ping(session: Session, actor: Actor, full_name: str, webhook_id: uuid.UUID) -> WebhookDelivery:
    """Send a test event to a webhook: the event is this call.

    Raises:
        WrongState: The webhook is off.
        TooMany: Too many deliveries to the webhook are pending.
    """
    webhook, model, _ = webhooks.find(session, full_name, webhook_id, lock=True)
    require_room(session, full_name, webhook)
    record(session, actor, "webhook.test", full_name, model, after={"webhook": str(webhook.id)})
    append_pending(session)  # now, to have its serial
    event = session.scalars(select(AuditEvent).where(AuditEvent.serial == newest_serial(session))).one()
    delivery = add(session, webhook, event, 0)
    session.flush()
    return delivery


def require_room(session: Session, full_name: str, webhook: Webhook) -> None:
    """Refuse to send more to a webhook that is off or has too many deliveries pending.

    Raises:
        WrongState: The webhook is off.
        TooMany: Too many deliveries to the webhook are pending.
    """
    if not webhook.active:
        raise WrongState(f"This webhook of {full_name} is off; turn it on first.")
    waiting = WebhookDelivery.webhook_id == webhook.id, WebhookDelivery.state == "pending"
    if session.scalars(select(func.count()).select_from(WebhookDelivery).where(*waiting)).one() >= MOST_PENDING:
        raise TooMany(f"{MOST_PENDING} deliveries to this webhook are pending; try again once they are done.")


def add(session: Session, webhook: Webhook, event: AuditEvent, number: int) -> WebhookDelivery:
    """Add a delivery, due at once."""
    at = now()
    delivery = WebhookDelivery(
        webhook_id=webhook.id, event_serial=event.serial, event=event, replay=number, created_at=at, due_at=at
    )
    session.add(delivery)
    return delivery


def collectable(session: Session) -> Any:
    """Return the condition for the webhooks whose cursor is behind the log."""
    return and_(Webhook.active, Webhook.cursor < newest_serial(session))


def waiting(session: Session, resting: Collection[uuid.UUID] = ()) -> bool:
    """Say whether there is anything to collect or to send, without taking locks."""
    query = select(or_(exists().where(collectable(session)), due(resting).exists()))
    return bool(session.scalar(query))


def collect(session: Session) -> int:
    """Make deliveries of the events past each webhook's cursor; return how many webhooks were examined.

    Webhooks that another courier has locked are left to it.
    """
    last = newest_serial(session)
    behind = session.scalars(
        select(Webhook)
        .where(Webhook.active, Webhook.cursor < last)
        .order_by(Webhook.cursor)
        .limit(COLLECTED_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).all()
    for webhook in behind:
        events = session.scalars(
            select(AuditEvent)
            .where(
                AuditEvent.model_id == webhook.model_id, AuditEvent.serial > webhook.cursor, AuditEvent.serial <= last
            )
            .order_by(AuditEvent.serial)
            .limit(COLLECTED_AT_ONCE)
        ).all()
        for event in events:
            if webhooks.matches(webhook.events, event.action):
                add(session, webhook, event, 0)
        webhook.cursor = events[-1].serial if len(events) == COLLECTED_AT_ONCE else last
    session.flush()
    return len(behind)


def due(resting: Collection[uuid.UUID] = ()) -> Any:
    """Return a query for the deliveries that are due, except those of resting webhooks."""
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
    """Claim deliveries that are due: at most one of each webhook, and none of resting ones.

    Each is due again when its lease ends, in case the courier dies. Two couriers never claim the same one.
    """
    claimed: list[DueDelivery] = []
    while len(claimed) < most:
        taken = {*resting, *(delivery.webhook_id for delivery in claimed)}
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
        claimed.append(
            DueDelivery(
                delivery.id, webhook.id, delivery.attempts, webhook.url, webhook.secret, event.action, event.serial
            )
        )
    session.flush()
    return claimed


def finish(session: Session, claimed: DueDelivery, reply: Reply) -> str | None:
    """Record the outcome of an attempt; return the delivery's state, or None if it was deleted.

    A success always counts. A failure counts only while no other courier has claimed the delivery since.
    """
    delivery = session.get(WebhookDelivery, claimed.delivery_id, with_for_update=True, populate_existing=True)
    if delivery is None:
        return None
    arrived = 200 <= reply.status < 300
    if delivery.state != "pending" or (delivery.attempts != claimed.attempt and not arrived):
        return delivery.state
    delivery.status, delivery.answer = reply.status or None, reply.text
    if arrived:
        delivery.state, delivery.delivered_at = "delivered", now()
    elif delivery.attempts >= MOST_ATTEMPTS:
        delivery.state = "failed"
    else:
        delivery.due_at = now() + pause(delivery.attempts)
    session.flush()
    return delivery.state


def hurry(session: Session) -> None:
    """Make deliveries due whose time is further ahead than their pause may be long: the clock has gone back since."""
    for attempts in range(MOST_ATTEMPTS):
        ahead = max(LEASE, longest_pause(attempts))
        wrong = WebhookDelivery.state == "pending", WebhookDelivery.due_at > now() + ahead
        session.execute(
            update(WebhookDelivery).where(*wrong, WebhookDelivery.attempts == attempts).values(due_at=now())
        )


def longest_pause(attempts: int) -> timedelta:
    """Return the longest pause after this many attempts; none before the first."""
    return FIRST_PAUSE * float(4 ** (attempts - 1)) * MOST_VARIED if attempts else timedelta(0)


def pause(attempts: int) -> timedelta:
    """Return the pause after this many attempts: from 15 seconds to 17 hours, with some random variation."""
    return FIRST_PAUSE * float(4 ** (attempts - 1)) * random.uniform(0.8, MOST_VARIED)  # noqa: S311


def forget(session: Session, before: datetime) -> int:
    """Delete ended deliveries that were created before a time; return how many."""
    old = WebhookDelivery.state != "pending", WebhookDelivery.created_at < before
    deleted = session.execute(delete(WebhookDelivery).where(*old))
    assert isinstance(deleted, CursorResult)
    return deleted.rowcount

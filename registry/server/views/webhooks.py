"""Views of webhooks and their deliveries."""

import uuid

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Webhook, WebhookDelivery
from registry.services.events import deliveries as delivery_service
from registry.services.events import webhooks

NOUNS = webhooks.NOUNS  # that an event may be about


def webhook(row: Webhook, creator: str) -> schemas.Webhook:
    """Return the shape of a webhook, without its secret."""
    same = {name: getattr(row, name) for name in ("url", "events", "active", "created_at")}
    return schemas.Webhook(id=str(row.id), creator=creator, **same)


def delivery(row: WebhookDelivery) -> schemas.WebhookDelivery:
    """Return the shape of a delivery."""
    same = ("replay", "state", "attempts", "status", "answer", "created_at", "delivered_at")
    return schemas.WebhookDelivery.model_validate(
        {
            "id": str(row.id),
            "event": row.event.action,
            "serial": row.event_serial,
            "subject": row.event.subject,
            "due_at": row.due_at if row.state == "pending" else None,
            **{name: getattr(row, name) for name in same},
        }
    )


def listing(session: Session, name: str) -> list[schemas.Webhook]:
    """Return the webhooks of a model."""
    return [webhook(row, creator) for row, creator in webhooks.listing(session, name)]


def show(session: Session, name: str, webhook_id: uuid.UUID) -> schemas.Webhook:
    """Return a webhook of a model."""
    row, _, creator = webhooks.find(session, name, webhook_id)
    return webhook(row, creator)


def deliveries(
    session: Session, name: str, webhook_id: uuid.UUID, before: uuid.UUID | None, limit: int
) -> schemas.WebhookDeliveryPage:
    """Return a page of the deliveries of a webhook, newest first."""
    rows, cursor = delivery_service.listing(session, name, webhook_id, before, limit)
    return schemas.WebhookDeliveryPage(items=[delivery(row) for row in rows], next=str(cursor) if cursor else None)

"""From rows to the shapes on the wire: webhooks and deliveries."""

from registry import schemas
from registry.db.tables import Webhook, WebhookDelivery


def webhook(row: Webhook, creator: str) -> schemas.Webhook:
    """Show a webhook, without its secret."""
    same = {name: getattr(row, name) for name in ("url", "events", "active", "created_at")}
    return schemas.Webhook(id=str(row.id), creator=creator, **same)


def delivery(row: WebhookDelivery) -> schemas.WebhookDelivery:
    """Show a delivery."""
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

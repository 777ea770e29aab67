"""Routes of webhooks."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, Route, allow
from registry.server.errors import RESPONSES
from registry.server.views import webhooks as webhook_views
from registry.services.events import webhooks

router = APIRouter(
    prefix="/api/v1/models/{namespace}/{name}/webhooks", tags=["webhooks"], route_class=Route, responses=RESPONSES
)


@router.post("", status_code=201)
@allow("webhook.manage")
def create(name: ModelName, body: schemas.WebhookRequest, actor: ActorDep, ctx: ContextDep) -> schemas.NewWebhook:
    """Make a webhook; the secret that signs what it is sent is in this answer alone."""
    private = ctx.settings.webhook_private
    with ctx.database.write() as session:
        row = webhooks.create(session, actor, name, body.url, body.events, private=private)
        shown = webhook_views.webhook(row, actor.name)
    return schemas.NewWebhook(secret=row.secret, **shown.model_dump())


@router.get("")
@allow("webhook.manage")
def listing(name: ModelName, ctx: ContextDep) -> list[schemas.Webhook]:
    """List the webhooks of a model."""
    with ctx.database.read() as session:
        return [webhook_views.webhook(*row) for row in webhooks.listing(session, name)]


@router.get("/{webhook_id}")
@allow("webhook.manage")
def show(name: ModelName, webhook_id: uuid.UUID, ctx: ContextDep) -> schemas.Webhook:
    """Show a webhook."""
    with ctx.database.read() as session:
        row, _, creator = webhooks.find(session, name, webhook_id)
        return webhook_views.webhook(row, creator)


@router.patch("/{webhook_id}")
@allow("webhook.manage")
def update(
    name: ModelName, webhook_id: uuid.UUID, body: schemas.WebhookUpdate, actor: ActorDep, ctx: ContextDep
) -> schemas.Webhook:
    """Turn a webhook on or off; what happens while it is off is not told."""
    with ctx.database.write() as session:
        webhooks.set_active(session, actor, name, webhook_id, body.active)
        row, _, creator = webhooks.find(session, name, webhook_id)
        return webhook_views.webhook(row, creator)


@router.delete("/{webhook_id}", status_code=204)
@allow("webhook.manage")
def remove(name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Delete a webhook, with the record of what it was sent."""
    with ctx.database.write() as session:
        webhooks.remove(session, actor, name, webhook_id)


@router.post("/{webhook_id}/test", status_code=202)
@allow("webhook.manage")
def ping(name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.WebhookDelivery:
    """Send a webhook something to see whether it works."""
    with ctx.database.write() as session:
        return webhook_views.delivery(webhooks.ping(session, actor, name, webhook_id))


@router.get("/{webhook_id}/deliveries")
@allow("webhook.manage")
def deliveries(
    name: ModelName,
    webhook_id: uuid.UUID,
    ctx: ContextDep,
    before: uuid.UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> schemas.WebhookDeliveryPage:
    """List what was sent to a webhook and what it answered, newest first."""
    with ctx.database.read() as session:
        found, cursor = webhooks.deliveries(session, name, webhook_id, before, limit)
        items = [webhook_views.delivery(row) for row in found]
        return schemas.WebhookDeliveryPage(items=items, next=str(cursor) if cursor else None)


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay", status_code=202)
@allow("webhook.manage")
def replay(
    name: ModelName, webhook_id: uuid.UUID, delivery_id: uuid.UUID, actor: ActorDep, ctx: ContextDep
) -> schemas.WebhookDelivery:
    """Send an event to a webhook again."""
    with ctx.database.write() as session:
        return webhook_views.delivery(webhooks.replay(session, actor, name, webhook_id, delivery_id))

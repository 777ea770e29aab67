"""Routes of webhooks."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.errors import RESPONSES
from registry.server.views import webhooks as webhook_views
from registry.services.events import deliveries as delivery_service
from registry.services.events import webhooks

router = APIRouter(
    prefix="/api/v1/models/{namespace}/{name}/webhooks", tags=["webhooks"], route_class=Route, responses=RESPONSES
)


@router.post("", status_code=201)
@allow("webhook.manage")
def create(name: ModelName, body: schemas.WebhookRequest, actor: ActorDep, ctx: ContextDep) -> schemas.NewWebhook:
    """Create a webhook; only this answer shows the secret that signs its deliveries."""
    private = ctx.settings.webhook_private
    with ctx.writing(actor, body) as session:
        row = webhooks.create(session, actor, name, body.url, body.events, private=private)
        return schemas.NewWebhook(secret=row.secret, **webhook_views.webhook(row, actor.name).model_dump())


@router.get("")
@allow("webhook.manage")
def listing(name: ModelName, ctx: ContextDep) -> list[schemas.Webhook]:
    """List the webhooks of a model."""
    with ctx.database.read() as session:
        return webhook_views.listing(session, name)


@router.get("/{webhook_id}")
@allow("webhook.manage")
def show(name: ModelName, webhook_id: uuid.UUID, ctx: ContextDep) -> schemas.Webhook:
    """Show a webhook."""
    with ctx.database.read() as session:
        return webhook_views.show(session, name, webhook_id)


@router.patch("/{webhook_id}")
@allow("webhook.manage")
def update(
    name: ModelName, webhook_id: uuid.UUID, body: schemas.WebhookUpdate, actor: ActorDep, ctx: ContextDep
) -> schemas.Webhook:
    """Turn a webhook on or off; events that happen while it is off are not delivered later."""
    with ctx.database.write() as session:
        webhooks.set_active(session, actor, name, webhook_id, body.active)
        return webhook_views.show(session, name, webhook_id)


@router.delete("/{webhook_id}", status_code=204)
@allow("webhook.manage")
def remove(name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Delete a webhook and the record of its deliveries."""
    with ctx.database.write() as session:
        webhooks.remove(session, actor, name, webhook_id)


@router.post("/{webhook_id}/test", status_code=202)
@allow("webhook.manage")
def ping(name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.WebhookDelivery:
    """Send a test delivery to a webhook."""
    with ctx.database.write() as session:
        return webhook_views.delivery(delivery_service.ping(session, actor, name, webhook_id))


@router.get("/{webhook_id}/deliveries")
@allow("webhook.manage")
def deliveries(
    name: ModelName,
    webhook_id: uuid.UUID,
    ctx: ContextDep,
    before: uuid.UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> schemas.WebhookDeliveryPage:
    """List the deliveries to a webhook and its answers, newest first."""
    with ctx.database.read() as session:
        return webhook_views.deliveries(session, name, webhook_id, before, limit)


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay", status_code=202)
@allow("webhook.manage")
def replay(
    name: ModelName, webhook_id: uuid.UUID, delivery_id: uuid.UUID, actor: ActorDep, ctx: ContextDep
) -> schemas.WebhookDelivery:
    """Deliver an event to a webhook again."""
    with ctx.database.write() as session:
        return webhook_views.delivery(delivery_service.replay(session, actor, name, webhook_id, delivery_id))

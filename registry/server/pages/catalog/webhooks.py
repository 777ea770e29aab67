"""Pages of a model's webhooks: who is told of what happens to it, and what became of each telling."""

import uuid

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api import models, webhooks
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, allow
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.once import shown_once
from registry.server.pages.frame.route import PageRoute, redirect
from registry.services.events.webhooks import NOUNS

router = APIRouter(prefix="/{namespace:space}/{name}/settings/webhooks", route_class=PageRoute, include_in_schema=False)
PAGE = 20


@router.get("")
@allow("webhook.manage")
def listing(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """List the webhooks of a model, with a form for another one."""
    found = webhooks.listing(name, ctx)
    return render.page(request, "webhooks.html", model=models.show(name, actor, ctx), webhooks=found, nouns=NOUNS)


@router.post("")
@allow("webhook.manage")
def create(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Make a webhook, and show its secret this once; nothing chosen is everything."""
    chosen = forms.fields(request).get("noun", []) + forms.field(request, "actions").replace(",", " ").split()
    given = {"events": chosen} if chosen else {}
    body = forms.read(schemas.WebhookRequest, request, **given)
    hook = webhooks.create(name, body, actor, ctx)
    return shown_once(request, "webhook_made.html", model=models.show(name, actor, ctx), webhook=hook)


@router.get("/{webhook_id}")
@allow("webhook.manage")
def show(
    request: Request,
    name: ModelName,
    webhook_id: uuid.UUID,
    actor: ActorDep,
    ctx: ContextDep,
    before: uuid.UUID | None = None,
) -> Response:
    """Show a webhook, and what it was sent."""
    page = webhooks.deliveries(name, webhook_id, ctx, before=before, limit=PAGE)
    return render.page(
        request,
        "webhook.html",
        model=models.show(name, actor, ctx),
        webhook=webhooks.show(name, webhook_id, ctx),
        page=page,
        before=before,
        next=f"{where(name, webhook_id)}{render.query(before=page.next)}" if page.next else None,
    )


@router.post("/{webhook_id}")
@allow("webhook.manage")
def update(request: Request, name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Turn a webhook on or off."""
    webhooks.update(name, webhook_id, forms.read(schemas.WebhookUpdate, request), actor, ctx)
    return redirect(request, where(name, webhook_id))


@router.post("/{webhook_id}/delete")
@allow("webhook.manage")
def remove(request: Request, name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Delete a webhook, with the record of what it was sent."""
    webhooks.remove(name, webhook_id, actor, ctx)
    return redirect(request, f"/{name}/settings/webhooks")


@router.post("/{webhook_id}/test")
@allow("webhook.manage")
def ping(request: Request, name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Send a webhook something to see whether it works."""
    webhooks.ping(name, webhook_id, actor, ctx)
    return redirect(request, where(name, webhook_id))


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay")
@allow("webhook.manage")
def replay(
    request: Request, name: ModelName, webhook_id: uuid.UUID, delivery_id: uuid.UUID, actor: ActorDep, ctx: ContextDep
) -> Response:
    """Send an event to a webhook again."""
    webhooks.replay(name, webhook_id, delivery_id, actor, ctx)
    return redirect(request, where(name, webhook_id))


def where(name: str, webhook_id: uuid.UUID) -> str:
    """Return the page of a webhook."""
    return f"/{name}/settings/webhooks/{webhook_id}"

"""Pages of a model's webhooks and their deliveries."""

import uuid

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api import models, webhooks
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.answers import answer_page
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import webhooks as webhook_views

router = APIRouter(prefix="/{namespace:space}/{name}/settings/webhooks", route_class=PageRoute, include_in_schema=False)
PAGE = 20


@router.get("")
@allow("webhook.manage")
def listing(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """List the webhooks of a model, with a form for another one."""
    with ctx.database.read() as session:
        shown = model_views.show(session, actor, model_views.find(session, name))
        hooks = webhook_views.listing(session, name)
    return render.page(request, "webhooks.html", model=shown, webhooks=hooks, nouns=webhook_views.NOUNS)


@router.post("")
@allow("webhook.manage")
def create(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Create a webhook, and show its secret once; without a choice, it gets all events."""
    chosen = forms.fields(request).get("noun", []) + forms.field(request, "actions").replace(",", " ").split()
    given = {"events": chosen} if chosen else {}
    body = forms.read(schemas.WebhookRequest, request, **given)
    hook = webhooks.create(name, body, actor, ctx)
    return answer_page(request, "webhook_made.html", model=models.show(name, actor, ctx), webhook=hook)


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
    """Show a webhook and its deliveries."""
    with ctx.database.read() as session:
        shown = model_views.show(session, actor, model_views.find(session, name))
        hook = webhook_views.show(session, name, webhook_id)
        page = webhook_views.deliveries(session, name, webhook_id, before, PAGE)
    return render.page(
        request,
        "webhook.html",
        model=shown,
        webhook=hook,
        page=page,
        before=before,
        next=render.next_page(webhook_path(name, webhook_id), page.next),
    )


@router.post("/{webhook_id}")
@allow("webhook.manage")
def update(request: Request, name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Turn a webhook on or off."""
    webhooks.update(name, webhook_id, forms.read(schemas.WebhookUpdate, request), actor, ctx)
    return redirect(request, webhook_path(name, webhook_id))


@router.post("/{webhook_id}/delete")
@allow("webhook.manage")
def remove(request: Request, name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Delete a webhook and the record of its deliveries."""
    webhooks.remove(name, webhook_id, actor, ctx)
    return redirect(request, f"/{name}/settings/webhooks")


@router.post("/{webhook_id}/test")
@allow("webhook.manage")
def ping(request: Request, name: ModelName, webhook_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Send a test delivery to a webhook."""
    webhooks.ping(name, webhook_id, actor, ctx)
    return redirect(request, webhook_path(name, webhook_id))


@router.post("/{webhook_id}/deliveries/{delivery_id}/replay")
@allow("webhook.manage")
def replay(
    request: Request, name: ModelName, webhook_id: uuid.UUID, delivery_id: uuid.UUID, actor: ActorDep, ctx: ContextDep
) -> Response:
    """Deliver an event to a webhook again."""
    webhooks.replay(name, webhook_id, delivery_id, actor, ctx)
    return redirect(request, webhook_path(name, webhook_id))


def webhook_path(name: str, webhook_id: uuid.UUID) -> str:
    """Return the path of the page of a webhook."""
    return f"/{name}/settings/webhooks/{webhook_id}"

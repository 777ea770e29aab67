"""Pages of trusted publishing: workflows that may push to a model."""

import uuid

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api.accounts import publishers
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views.accounts import publishers as publisher_views

router = APIRouter(
    prefix="/{namespace:space}/{name}/settings/publishers", route_class=PageRoute, include_in_schema=False
)


@router.get("")
@allow("publisher.manage")
def listing(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show the workflows that may push to a model, with a form that adds one."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown, found = model_views.show(session, actor, row), publisher_views.listing(session, row)
    return render.page(request, "publishers.html", model=shown, publishers=found)


@router.post("")
@allow("publisher.manage")
def create(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Let a workflow push to a model; claims are lines of NAME=VALUE."""
    lines = [line.partition("=") for line in forms.field(request, "claims").splitlines() if line.strip()]
    claims = {key.strip(): value.strip() for key, _, value in lines}
    publishers.create_publisher(name, forms.read(schemas.PublisherRequest, request, claims=claims), actor, ctx)
    return redirect(request, f"/{name}/settings/publishers")


@router.post("/{publisher_id}/remove")
@allow("publisher.manage")
def remove(request: Request, name: ModelName, publisher_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Keep a workflow from pushing to a model."""
    publishers.remove_publisher(name, publisher_id, actor, ctx)
    return redirect(request, f"/{name}/settings/publishers")

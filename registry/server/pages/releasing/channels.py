"""Channels: where each points and has pointed, who may move it, and the forms that do."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.db.tables import Release
from registry.server.api import channels, models
from registry.server.api.channels import ChannelName
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, VisitorDep, allow
from registry.server.pages.frame import forms, permits, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import releases as release_views
from registry.services.catalog import models as model_service
from registry.services.releasing import channels as channel_service
from registry.services.releasing import releases as release_service

router = APIRouter(prefix="/{namespace:space}/{name}/channels", route_class=PageRoute, include_in_schema=False)
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
PAGE, CHOICES = 30, 100


@router.post("")
@allow("channel.move")
def make(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Point a channel, which may be new, at a release."""
    return moved(request, name, forms.field(request, "channel")[:80], actor, ctx)


@router.get("/{channel}")
@allow("model.read")
def show(
    request: Request,
    name: ModelName,
    channel: ChannelName,
    actor: VisitorDep,
    ctx: ContextDep,
    before: Before = None,
) -> Response:
    """Show a channel: where it points, by which rule, and how it came there."""
    shown = models.show(name, actor, ctx)
    with ctx.database.read() as session:
        model = model_service.find(session, name)
        row = channel_service.find(session, model, channel)
        found = release_views.channel(session, model, row)
        target = session.get(Release, row.release_id) if row.release_id else None
        moves, cursor = channel_service.moves(session, row, before, PAGE)
        back = channel_service.target_of_rollback(session, row)
        published = release_service.newest(session, model, ("published",), CHOICES)
    return render.page(
        request,
        "channel.html",
        model=shown,
        may=permits.permitted(actor, shown),
        channel=found,
        target=target,
        moves=moves,
        next=f"/{name}/channels/{channel}{render.query(before=cursor)}" if cursor else None,
        back=back.version if back else None,
        published=published,
    )


@router.post("/{channel}")
@allow("channel.move")
def move(request: Request, name: ModelName, channel: ChannelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Point a channel at a release, or ask for it."""
    return moved(request, name, channel, actor, ctx)


@router.post("/{channel}/rollback")
@allow("channel.move")
def rollback(request: Request, name: ModelName, channel: ChannelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Point a channel at the release before."""
    channels.rollback(name, channel, forms.read(schemas.Reason, request), actor, ctx)
    return redirect(request, f"/{name}/channels/{channel}")


@router.post("/{channel}/protection")
@allow("channel.protect")
def protect(request: Request, name: ModelName, channel: ChannelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Change the rule of a channel."""
    allow_yanked = forms.field(request, "allow_yanked") == "on"  # a box that is not ticked is not sent
    body = forms.read(schemas.ChannelRule, request, allow_yanked=allow_yanked)
    channels.protect(name, channel, body, actor, ctx)
    return redirect(request, f"/{name}/channels/{channel}")


def moved(request: Request, name: str, channel: str, actor: ActorDep, ctx: ContextDep) -> Response:
    """Point a channel at the release that a form names, and lead to its page."""
    channels.move(name, channel, forms.read(schemas.ChannelRequest, request), actor, ctx)
    return redirect(request, f"/{name}/channels/{channel}")

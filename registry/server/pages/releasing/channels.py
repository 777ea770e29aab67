"""The page of a channel: its target, its history and its rule, with the forms that change them."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api import channels
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ChannelName, ModelName
from registry.server.pages.frame import forms, permits, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import releases as release_views

router = APIRouter(prefix="/{namespace:space}/{name}/channels", route_class=PageRoute, include_in_schema=False)
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
PAGE = 30


@router.post("")
@allow("channel.move")
def create(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Point a channel, which may be new, at a release."""
    return move_channel(request, name, forms.field(request, "channel")[:80], actor, ctx)


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
    """Show a channel: its target, its rule, and its history."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown = model_views.show(session, actor, row)
        overview = release_views.channel_overview(session, row, channel, before, PAGE)
        published = release_views.versions(session, row, ("published",))
    return render.page(
        request,
        "channel.html",
        model=shown,
        may=permits.permitted(actor, shown),
        channel=overview.channel,
        target=overview,
        moves=overview.moves,
        next=render.next_page(f"/{name}/channels/{channel}", overview.next),
        back=overview.back,
        published=published,
    )


@router.post("/{channel}")
@allow("channel.move")
def move(request: Request, name: ModelName, channel: ChannelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Point a channel at a release, or ask for it."""
    return move_channel(request, name, channel, actor, ctx)


@router.post("/{channel}/rollback")
@allow("channel.move")
def rollback(request: Request, name: ModelName, channel: ChannelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Point a channel at the release that it pointed at before."""
    channels.rollback(name, channel, forms.read(schemas.Reason, request), actor, ctx)
    return redirect(request, f"/{name}/channels/{channel}")


@router.post("/{channel}/protection")
@allow("channel.protect")
def protect(request: Request, name: ModelName, channel: ChannelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Change the rule of a channel."""
    allow_yanked = forms.field(request, "allow_yanked") == "on"  # browsers send nothing for a box that is not ticked
    body = forms.read(schemas.ChannelRule, request, allow_yanked=allow_yanked)
    channels.protect(name, channel, body, actor, ctx)
    return redirect(request, f"/{name}/channels/{channel}")


def move_channel(request: Request, name: str, channel: str, actor: ActorDep, ctx: ContextDep) -> Response:
    """Point a channel at the release that a form names, and redirect to its page."""
    channels.move(name, channel, forms.read(schemas.ChannelRequest, request), actor, ctx)
    return redirect(request, f"/{name}/channels/{channel}")

"""Routes of channels."""

from typing import Annotated

from fastapi import APIRouter, Path

from registry import schemas
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, Route, allow
from registry.server.errors import RESPONSES
from registry.server.views import releases as release_views
from registry.services.catalog import models
from registry.services.releasing import channels

router = APIRouter(
    prefix="/api/v1/models/{namespace}/{name}/channels", tags=["channels"], route_class=Route, responses=RESPONSES
)
ChannelName = Annotated[str, Path(pattern=r"^[a-z0-9-]{1,32}$", alias="channel")]


@router.get("")
@allow("model.read")
def listing(name: ModelName, ctx: ContextDep) -> list[schemas.Channel]:
    """List the channels of a model."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        return [release_views.channel(session, model, row) for row in channels.listing(session, name)]


@router.put("/{channel}")
@allow("channel.move")
def move(
    name: ModelName, channel: ChannelName, body: schemas.ChannelRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Channel:
    """Point a channel at a published release, or ask for it where more than one must ask."""
    with ctx.database.write() as session:
        row = channels.move(session, actor, name, channel, body.version, body.reason)
        return release_views.channel(session, models.find(session, name), row)


@router.post("/{channel}/rollback")
@allow("channel.move")
def rollback(
    name: ModelName, channel: ChannelName, body: schemas.Reason, actor: ActorDep, ctx: ContextDep
) -> schemas.Channel:
    """Point a channel at the release before."""
    with ctx.database.write() as session:
        row = channels.rollback(session, actor, name, channel, body.message)
        return release_views.channel(session, models.find(session, name), row)


@router.get("/{channel}/history")
@allow("model.read")
def history(name: ModelName, channel: ChannelName, ctx: ContextDep) -> list[schemas.ChannelMove]:
    """List the moves of a channel, oldest first: who, when and why."""
    with ctx.database.read() as session:
        row = channels.find(session, models.find(session, name), channel)
        return [release_views.channel_move(found) for found in channels.history(session, row)]


@router.put("/{channel}/protection")
@allow("channel.protect")
def protect(
    name: ModelName, channel: ChannelName, body: schemas.ChannelRule, actor: ActorDep, ctx: ContextDep
) -> schemas.Channel:
    """Say who may move a channel, how many must ask, and whether to releases with yanked patches."""
    with ctx.database.write() as session:
        row = channels.protect(session, actor, name, channel, body.role, body.approvals, body.allow_yanked)
        return release_views.channel(session, models.find(session, name), row)

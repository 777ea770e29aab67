"""Routes of channels."""

from fastapi import APIRouter

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ChannelName, ModelName
from registry.server.errors import RESPONSES
from registry.server.views import releases as release_views
from registry.services.catalog import models
from registry.services.releasing import channels

router = APIRouter(
    prefix="/api/v1/models/{namespace}/{name}/channels", tags=["channels"], route_class=Route, responses=RESPONSES
)


@router.get("")
@allow("model.read")
def listing(name: ModelName, ctx: ContextDep) -> list[schemas.Channel]:
    """List the channels of a model."""
    with ctx.database.read() as session:
        return release_views.channel_list(session, models.find(session, name))


@router.put("/{channel}")
@allow("channel.move")
def move(
    name: ModelName, channel: ChannelName, body: schemas.ChannelRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Channel:
    """Point a channel at a published release; where several people must ask for a move, ask for it."""
    with ctx.writing(actor, body) as session:
        row = channels.move(session, actor, name, channel, body.version, body.reason)
        return release_views.channel(session, models.find(session, name), row)


@router.post("/{channel}/rollback")
@allow("channel.move")
def rollback(
    name: ModelName, channel: ChannelName, body: schemas.Reason, actor: ActorDep, ctx: ContextDep
) -> schemas.Channel:
    """Point a channel at the release that it pointed at before."""
    with ctx.writing(actor, body) as session:
        row = channels.rollback(session, actor, name, channel, body.message)
        return release_views.channel(session, models.find(session, name), row)


@router.get("/{channel}/history")
@allow("model.read")
def history(name: ModelName, channel: ChannelName, ctx: ContextDep) -> list[schemas.ChannelMove]:
    """List the moves of a channel, oldest first: who, when and why."""
    with ctx.database.read() as session:
        return release_views.history(session, models.find(session, name), channel)


@router.put("/{channel}/protection")
@allow("channel.protect")
def protect(
    name: ModelName, channel: ChannelName, body: schemas.ChannelRule, actor: ActorDep, ctx: ContextDep
) -> schemas.Channel:
    """Set who may move a channel, how many people must ask, and whether it takes releases with yanked patches."""
    with ctx.database.write() as session:
        row = channels.protect(session, actor, name, channel, body.role, body.approvals, body.allow_yanked)
        return release_views.channel(session, models.find(session, name), row)

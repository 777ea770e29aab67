"""The inbox: what waits for somebody in a model."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import models as model_views
from registry.server.views import releases as release_views
from registry.server.views import reviews as review_views
from registry.services.people.actors import Actor
from registry.services.people.rules import Role

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
MOST = 50  # patches of a page, and releases and moves on the first


@router.get("/inbox")
@allow("inbox.read")
def inbox(
    request: Request,
    name: ModelName,
    actor: ActorDep,
    ctx: ContextDep,
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
) -> Response:
    """Show what waits for the visitor, each item with the next step."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown = model_views.show(session, actor, row)
        waiting = review_views.inbox_of(session, actor, row, after, MOST)
        channels = release_views.channel_list(session, row)
    role = Role[(shown.role or "anyone").upper()]
    moves = [] if after else pending_moves(channels, role, actor)
    return render.page(
        request,
        "inbox.html",
        model=shown,
        inbox=waiting,
        moves=moves,
        most=MOST,
        after=after,
        following=render.query(after=waiting.next) if waiting.next else None,
        nothing=not moves and waiting == schemas.Inbox(review=[], accept=[], mine=[], candidates=[], alarms=[]),
        watches=role >= Role.MAINTAINER,
    )


def pending_moves(
    channels: list[schemas.Channel], role: Role, actor: Actor
) -> list[tuple[schemas.Channel, str, list[str]]]:
    """Return the moves that others have asked for and the visitor may ask for, too: channel, version, who asked."""
    return [
        (channel, version, people)
        for channel in channels
        if role >= max(Role.MAINTAINER, Role[channel.role.upper()])
        for version, people in channel.asked.items()
        if actor.name not in people
    ]

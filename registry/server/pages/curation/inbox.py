"""The page of what waits for somebody in a model."""

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api import channels, models, reviews
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, allow
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.services.people.actors import Actor
from registry.services.people.rules import Role

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
MOST = 50  # of each kind on the page


@router.get("/inbox")
@allow("inbox.read")
def inbox(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show what waits for whoever has signed in, each with what to do next."""
    shown = models.show(name, actor, ctx)
    role = Role[(shown.role or "anyone").upper()]
    found = reviews.inbox(name, actor, ctx)
    waiting = asked(channels.listing(name, ctx), role, actor)
    return render.page(
        request,
        "inbox.html",
        model=shown,
        inbox=found,
        asked=waiting,
        most=MOST,
        nothing=not (waiting or any(getattr(found, kind) for kind in schemas.Inbox.model_fields)),
        watches=role >= Role.MAINTAINER,
    )


def asked(found: list[schemas.Channel], role: Role, actor: Actor) -> list[tuple[schemas.Channel, str, list[str]]]:
    """Return the moves that others have asked for and somebody may ask for, too: channel, version, who has asked."""
    return [
        (channel, version, people)
        for channel in found
        if role >= max(Role.MAINTAINER, Role[channel.role.upper()])
        for version, people in channel.asked.items()
        if actor.name not in people
    ]

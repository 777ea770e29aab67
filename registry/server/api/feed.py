"""Routes of what happened: changes, new releases and proposed patches of all models, and the audit log."""

import asyncio
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request

from registry import schemas
from registry.files.names import NAME
from registry.server.edge.admission import Route, VisitorDep, allow
from registry.server.edge.context import Context, ContextDep
from registry.server.edge.paths import ModelName
from registry.server.errors import RESPONSES
from registry.server.views import feed as feed_views
from registry.server.watching import MOST_WAIT, await_change
from registry.services.catalog import models
from registry.services.people import paging
from registry.services.people.actors import Actor

router = APIRouter(prefix="/api/v1", tags=["feed"], route_class=Route, responses=RESPONSES)
Serial = Annotated[int, Query(ge=0, le=2**63 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Few = Annotated[int, Query(ge=1, le=100)]
Cursor = Annotated[str | None, Query(pattern=paging.CURSOR)]
Wait = Annotated[float, Query(ge=0, le=MOST_WAIT, description="most seconds to wait for a change")]
Action = Annotated[str | None, Query(pattern=r"^[a-z]{1,20}\.(\*|[a-z_]{1,40})$")]
User = Annotated[str | None, Query(pattern=rf"^{NAME}$")]


@router.get("/changes")
@allow("server.read")
async def changes(
    request: Request, actor: VisitorDep, ctx: ContextDep, since: Serial = 0, limit: Limit = 100, wait: Wait = 0
) -> schemas.ChangePage:
    """List the changes after a serial of the models you may see, in order; with `wait`, as soon as there are any."""
    look = partial(ctx.readers.run, list_changes, ctx, actor, since, limit)
    return await await_change(request.app.state.streams, asyncio.sleep, look, lambda page: bool(page.items), wait)


def list_changes(ctx: Context, actor: Actor | None, since: int, limit: int) -> schemas.ChangePage:
    """Return the changes that there are now."""
    with ctx.database.read() as session:
        return feed_views.changes(session, actor, since, limit)


@router.get("/releases")
@allow("server.read")
def recent_releases(
    actor: VisitorDep, ctx: ContextDep, before: Cursor = None, limit: Few = 100
) -> schemas.RecentReleasePage:
    """List the releases of all models, those published last first, without yanked ones."""
    with ctx.database.read() as session:
        return feed_views.recent_releases(session, actor, before, limit)


@router.get("/patches")
@allow("server.read")
def waiting_patches(
    actor: VisitorDep, ctx: ContextDep, before: Cursor = None, limit: Few = 100
) -> schemas.WaitingPatchPage:
    """List the patches of all models that wait for a review or a decision, newest first."""
    with ctx.database.read() as session:
        return feed_views.waiting_patches(session, actor, before, limit)


@router.get("/models/{namespace}/{name}/audit")
@allow("model.audit")
def model_audit(
    name: ModelName,
    ctx: ContextDep,
    action: Action = None,
    user: User = None,
    since: Serial = 0,
    before: Before = None,
    limit: Limit = 100,
) -> schemas.AuditPage:
    """Show who did what to a model, newest first."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        return feed_views.audit(session, model=model, action=action, user=user, since=since, before=before, limit=limit)


@router.get("/audit")
@allow("audit.read")
def audit(
    ctx: ContextDep,
    action: Action = None,
    user: User = None,
    since: Serial = 0,
    before: Before = None,
    limit: Limit = 100,
) -> schemas.AuditPage:
    """Show who did what on this server, newest first."""
    with ctx.database.read() as session:
        return feed_views.audit(session, action=action, user=user, since=since, before=before, limit=limit)

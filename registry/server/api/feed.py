"""Routes of what happened: changes of models, and the audit log."""

from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.files.names import NAME
from registry.server.edge.admission import Route, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.errors import RESPONSES
from registry.server.views import feed as feed_views
from registry.services.catalog import models

router = APIRouter(prefix="/api/v1", tags=["feed"], route_class=Route, responses=RESPONSES)
Serial = Annotated[int, Query(ge=0, le=2**63 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Action = Annotated[str | None, Query(pattern=r"^[a-z]{1,20}\.(\*|[a-z_]{1,40})$")]
User = Annotated[str | None, Query(pattern=rf"^{NAME}$")]


@router.get("/changes")
@allow("server.read")
def changes(actor: VisitorDep, ctx: ContextDep, since: Serial = 0, limit: Limit = 100) -> schemas.ChangePage:
    """List the changes after a serial of the models you may see, in order, as a mirror follows them."""
    with ctx.database.read() as session:
        return feed_views.changes(session, actor, since, limit)


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

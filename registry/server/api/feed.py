"""Routes of what happened."""

from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.db.tables import AuditEvent, Model
from registry.files.names import NAME
from registry.server.edge.deps import ContextDep, ModelName, Route, VisitorDep, allow
from registry.server.errors import RESPONSES
from registry.services.catalog import models
from registry.services.events import feed

router = APIRouter(prefix="/api/v1", tags=["feed"], route_class=Route, responses=RESPONSES)
Serial = Annotated[int, Query(ge=0, le=2**63 - 1)]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Action = Annotated[str | None, Query(pattern=r"^[a-z]{1,20}\.(\*|[a-z_]{1,40})$")]
User = Annotated[str | None, Query(pattern=rf"^{NAME}$")]


@router.get("/changes")
@allow("server.read")
def changes(actor: VisitorDep, ctx: ContextDep, since: Serial = 0, limit: Limit = 100) -> schemas.ChangePage:
    """List what happened after a serial to the models you may see, in order: what a mirror follows."""
    with ctx.database.read() as session:
        found, cursor = feed.changes(session, actor, since, limit)
        return schemas.ChangePage(items=[show_change(*row) for row in found], next=cursor)


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
        found = feed.audit(session, model=model, action=action, user=user, since=since, before=before, limit=limit)
        return show_page(*found)


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
        found = feed.audit(session, action=action, user=user, since=since, before=before, limit=limit)
        return show_page(*found)


def show_change(row: AuditEvent, model: Model) -> schemas.Change:
    """Show an event to everybody."""
    same = {name: getattr(row, name) for name in ("serial", "at", "action", "subject", "before", "after")}
    return schemas.Change(model=model.full_name, user=row.user_name, **same)


def show_page(rows: list[AuditEvent], cursor: int | None) -> schemas.AuditPage:
    """Show a page of the log as it is."""
    return schemas.AuditPage(items=[show_event(row) for row in rows], next=cursor)


def show_event(row: AuditEvent) -> schemas.AuditEvent:
    """Show a row of the log as it is: its hash can be computed from what is shown."""
    same = ("serial", "at", "action", "subject", "before", "after", "request_id", "previous_hash", "hash")
    return schemas.AuditEvent(
        user_id=str(row.user_id) if row.user_id else None,
        user=row.user_name,
        token=row.token_prefix,
        model_id=str(row.model_id) if row.model_id else None,
        **{name: getattr(row, name) for name in same},
    )

"""Routes of what should not be here: said by anybody signed in, seen and closed by admins."""

import uuid

from fastapi import APIRouter

from registry import schemas
from registry.server import admin_views
from registry.server.admin import Before, Limit
from registry.server.deps import ActorDep, ContextDep, ModelName, Route, allow
from registry.server.errors import RESPONSES
from registry.services.operating import reports

router = APIRouter(prefix="/api/v1", tags=["reports"], route_class=Route, responses=RESPONSES)


@router.post("/models/{namespace}/{name}/reports", status_code=201)
@allow("report.create")
def create(name: ModelName, body: schemas.ReportRequest, actor: ActorDep, made: ContextDep) -> schemas.Report:
    """Tell the admins that a model, or a patch of it, should not be here; once more, and it says what you say now."""
    with made.database.write() as session:
        return admin_views.report(reports.create(session, actor, name, body.number, body.reason, body.message))


@router.get("/admin/reports")
@allow("admin.read")
def listing(made: ContextDep, open: bool = True, before: Before = None, limit: Limit = 50) -> schemas.ReportPage:
    """List the open reports, or the closed ones, newest first."""
    with made.database.read() as session:
        found, cursor = reports.listing(session, is_open=open, before=before, limit=limit)
        return schemas.ReportPage(items=[admin_views.report(row) for row in found], next=cursor)


@router.post("/admin/reports/{report_id}/close")
@allow("admin.manage")
def close(report_id: uuid.UUID, body: schemas.ReportAnswer, actor: ActorDep, made: ContextDep) -> schemas.Report:
    """Close a report, and say what came of it."""
    with made.database.write() as session:
        return admin_views.report(reports.close(session, actor, report_id, body.answer))

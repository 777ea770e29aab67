"""Routes for abuse reports, and for admins: workers, jobs, quarantine, quotas."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.files.names import NAME
from registry.server.api.people import NamespaceName
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, Route, allow
from registry.server.errors import RESPONSES
from registry.server.views import admin as admin_views
from registry.server.views import patches as patch_views
from registry.services.blobs import quotas
from registry.services.curation import reviews
from registry.services.operating import reports, summaries
from registry.services.people import namespaces, paging
from registry.services.queue import jobs, workers

router = APIRouter(prefix="/api/v1", route_class=Route, responses=RESPONSES)
Before = Annotated[str | None, Query(pattern=paging.CURSOR)]
Limit = Annotated[int, Query(ge=1, le=100)]
Words = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]
After = Annotated[str | None, Query(pattern=rf"^{NAME}$")]


@router.get("/admin/summary", tags=["admin"])
@allow("admin.read")
def summary(ctx: ContextDep) -> schemas.Summary:
    """Say how many there are of everything."""
    with ctx.database.read() as session:
        return schemas.Summary.model_validate(summaries.summary(session))


@router.get("/admin/workers", tags=["admin"])
@allow("admin.read")
def list_workers(ctx: ContextDep) -> list[schemas.Worker]:
    """List the workers of the last day, and what they are at."""
    with ctx.database.read() as session:
        return [admin_views.worker(found) for found in workers.listing(session)]


@router.get("/admin/jobs", tags=["admin"])
@allow("admin.read")
def list_jobs(
    ctx: ContextDep,
    state: schemas.JobState | None = None,
    kind: schemas.JobKind | None = None,
    before: Before = None,
    limit: Limit = 50,
) -> schemas.AdminJobPage:
    """List the jobs of all models, newest first."""
    with ctx.database.read() as session:
        found, cursor = jobs.listing(session, state=state, kind=kind, before=before, limit=limit)
        return schemas.AdminJobPage(items=[admin_views.job(*row) for row in found], next=cursor)


@router.get("/admin/quarantine", tags=["admin"])
@allow("admin.read")
def quarantine(ctx: ContextDep, before: Before = None, limit: Limit = 50) -> schemas.QuarantinePage:
    """List the patches in quarantine, of all models, the last that came there first."""
    with ctx.database.read() as session:
        found, cursor = reviews.quarantined(session, before, limit)
        items = [patch_views.patch(row.patch.model.full_name, row) for row in found]
        return schemas.QuarantinePage(items=items, next=cursor)


@router.get("/admin/namespaces", tags=["admin"])
@allow("admin.read")
def list_namespaces(
    ctx: ContextDep, search: Words = None, after: After = None, limit: Limit = 50
) -> schemas.NamespaceUsagePage:
    """List what namespaces may hold and what they hold, by name."""
    limits = ctx.upload_limits
    with ctx.database.read() as session:
        spaces, cursor = namespaces.listing(session, search, after, limit)
        found = quotas.usages(session, spaces, limits.quota_bytes, limits.quota_uploads)
        items = [admin_views.namespace(*row) for row in zip(spaces, found, strict=True)]
        return schemas.NamespaceUsagePage(items=items, next=cursor)


@router.put("/admin/namespaces/{namespace}/quota", tags=["admin"])
@allow("admin.manage")
def set_quota(
    namespace: NamespaceName, body: schemas.QuotaRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.NamespaceUsage:
    """Give a namespace quotas of its own, or the server's; show what it may hold and what it holds."""
    given = {f"quota_{field}": value for field, value in body.model_dump(exclude_unset=True).items()}
    limits = ctx.upload_limits
    with ctx.database.write() as session:
        space = quotas.set_quota(session, namespace, given, actor)
        return admin_views.namespace(space, quotas.usage(session, space, limits.quota_bytes, limits.quota_uploads))


@router.post("/models/{namespace}/{name}/reports", status_code=201, tags=["reports"])
@allow("report.create")
def create_report(name: ModelName, body: schemas.ReportRequest, actor: ActorDep, ctx: ContextDep) -> schemas.Report:
    """Tell the admins that a model, or a patch of it, should not be here; once more, and it says what you say now."""
    with ctx.database.write() as session:
        return admin_views.report(reports.create(session, actor, name, body.number, body.reason, body.message))


@router.get("/admin/reports", tags=["reports"])
@allow("admin.read")
def list_reports(ctx: ContextDep, open: bool = True, before: Before = None, limit: Limit = 50) -> schemas.ReportPage:
    """List the open reports, or the closed ones, newest first."""
    with ctx.database.read() as session:
        found, cursor = reports.listing(session, is_open=open, before=before, limit=limit)
        return schemas.ReportPage(items=[admin_views.report(row) for row in found], next=cursor)


@router.post("/admin/reports/{report_id}/close", tags=["reports"])
@allow("admin.manage")
def close_report(report_id: uuid.UUID, body: schemas.ReportAnswer, actor: ActorDep, ctx: ContextDep) -> schemas.Report:
    """Close a report, and say what came of it."""
    with ctx.database.write() as session:
        return admin_views.report(reports.close(session, actor, report_id, body.answer))

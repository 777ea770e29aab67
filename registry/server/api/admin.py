"""Routes of abuse reports, and for admins: workers, jobs, quarantine, quotas, the policy."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.files.names import NAME
from registry.server.edge.admission import ActorDep, Route, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName, NamespaceName
from registry.server.errors import RESPONSES
from registry.server.views import admin as admin_views
from registry.services.blobs import quotas
from registry.services.operating import reports
from registry.services.people import paging, policies

router = APIRouter(prefix="/api/v1", route_class=Route, responses=RESPONSES)
Before = Annotated[str | None, Query(pattern=paging.CURSOR)]
Limit = Annotated[int, Query(ge=1, le=100)]
Words = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]
After = Annotated[str | None, Query(pattern=rf"^{NAME}$")]


@router.get("/admin/summary", tags=["admin"])
@allow("admin.read")
def summary(ctx: ContextDep) -> schemas.Summary:
    """Count users, models, patches, blobs, jobs and open reports."""
    with ctx.database.read() as session:
        return admin_views.summary(ctx.summary.get(session))


@router.get("/admin/workers", tags=["admin"])
@allow("admin.read")
def list_workers(ctx: ContextDep) -> list[schemas.Worker]:
    """List the workers of the last day, with their jobs."""
    with ctx.database.read() as session:
        return admin_views.worker_list(session)


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
        return admin_views.job_page(session, state=state, kind=kind, before=before, limit=limit)


@router.get("/admin/quarantine", tags=["admin"])
@allow("admin.read")
def quarantine(ctx: ContextDep, before: Before = None, limit: Limit = 50) -> schemas.QuarantinePage:
    """List the patches in quarantine, of all models, the last quarantined first."""
    with ctx.database.read() as session:
        return admin_views.quarantine_page(session, before, limit)


@router.get("/admin/namespaces", tags=["admin"])
@allow("admin.read")
def list_namespaces(
    ctx: ContextDep, search: Words = None, after: After = None, limit: Limit = 50
) -> schemas.NamespaceUsagePage:
    """List the quotas of namespaces and their usage, by name."""
    with ctx.database.read() as session:
        return admin_views.namespace_page(session, ctx.upload_limits, search, after, limit)


@router.put("/admin/namespaces/{namespace}/quota", tags=["admin"])
@allow("admin.manage")
def set_quota(
    namespace: NamespaceName, body: schemas.QuotaRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.NamespaceUsage:
    """Set the quotas of a namespace, or return it to the server's; the answer shows its usage."""
    changes = {f"quota_{field}": value for field, value in body.model_dump(exclude_unset=True).items()}
    limits = ctx.upload_limits
    with ctx.database.write() as session:
        space = quotas.set_quota(session, namespace, changes, actor)
        return admin_views.namespace(space, quotas.usage(session, space, limits.quota_bytes, limits.quota_uploads))


@router.get("/policy", tags=["admin"])
@allow("server.read")
def show_policy(ctx: ContextDep) -> schemas.Policy:
    """Show what this registry asks of everybody: licences, masks, bases from the Hub, how people join."""
    with ctx.database.read() as session:
        return admin_views.policy_now(session, ctx.settings.registration)


@router.put("/admin/policy", tags=["admin"])
@allow("admin.manage")
def set_policy(body: schemas.PolicyRequest, actor: ActorDep, ctx: ContextDep) -> schemas.Policy:
    """Change what this registry asks of everybody from now on."""
    changes, setting = body.model_dump(exclude_unset=True), ctx.settings.registration
    with ctx.database.write() as session:
        return admin_views.policy(policies.change(session, actor, changes, setting), setting)


@router.get("/admin/settings", tags=["admin"])
@allow("admin.read")
def list_settings(ctx: ContextDep) -> list[schemas.Setting]:
    """List the limits that only the operator can change."""
    return admin_views.settings(ctx.settings)


@router.post("/models/{namespace}/{name}/reports", status_code=201, tags=["reports"])
@allow("report.create")
def create_report(name: ModelName, body: schemas.ReportRequest, actor: ActorDep, ctx: ContextDep) -> schemas.Report:
    """Report a model or a patch to the admins; a second report of yours replaces the first."""
    with ctx.writing(actor, body) as session:
        return admin_views.report(reports.create(session, actor, name, body.number, body.reason, body.message))


@router.get("/admin/reports", tags=["reports"])
@allow("admin.read")
def list_reports(ctx: ContextDep, open: bool = True, before: Before = None, limit: Limit = 50) -> schemas.ReportPage:
    """List the open reports, or the closed ones, newest first."""
    with ctx.database.read() as session:
        return admin_views.report_page(session, is_open=open, before=before, limit=limit)


@router.post("/admin/reports/{report_id}/close", tags=["reports"])
@allow("admin.manage")
def close_report(report_id: uuid.UUID, body: schemas.ReportAnswer, actor: ActorDep, ctx: ContextDep) -> schemas.Report:
    """Close a report with an answer."""
    with ctx.database.write() as session:
        return admin_views.report(reports.close(session, actor, report_id, body.answer))

"""Pages for admins: counts of everything, workers, jobs, the audit log."""

from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api.admin import Before
from registry.server.edge.admission import allow
from registry.server.edge.context import ContextDep
from registry.server.pages.catalog import settings
from registry.server.pages.catalog.settings import Action, User
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import admin as admin_views
from registry.server.views import feed as feed_views

router = APIRouter(prefix="/admin", route_class=PageRoute, include_in_schema=False)
State = Annotated[schemas.JobState | Literal[""], Query()]  # a choice that was left open is sent as an empty string
Kind = Annotated[schemas.JobKind | Literal[""], Query()]
PAGE = 50


@router.get("")
@allow("admin.read")
def dashboard(request: Request, ctx: ContextDep) -> Response:
    """Show counts of everything, and whether workers are alive."""
    with ctx.database.read() as session:
        summary, workers = admin_views.summary(ctx.summary.get(session)), admin_views.worker_list(session)
    return render.page(
        request,
        "admin.html",
        summary=summary,
        patches=[(state.replace("_", " "), number) for state, number in summary.patches.items()],
        jobs=list(summary.jobs.items()),
        workers=workers,
    )


@router.get("/workers")
@allow("admin.read")
def workers(request: Request, ctx: ContextDep) -> Response:
    """Show the workers of the last day, with their jobs."""
    with ctx.database.read() as session:
        shown = admin_views.worker_list(session)
    return render.page(request, "admin_workers.html", workers=shown)


@router.get("/jobs")
@allow("admin.read")
def jobs(request: Request, ctx: ContextDep, state: State = "", kind: Kind = "", before: Before = None) -> Response:
    """Show the jobs of all models, newest first."""
    with ctx.database.read() as session:
        page = admin_views.job_page(session, state=state or None, kind=kind or None, before=before, limit=PAGE)
    return render.page(
        request,
        "admin_jobs.html",
        page=page,
        state=state,
        kind=kind,
        before=before,
        states=get_args(schemas.JobState),
        kinds=get_args(schemas.JobKind),
        next=render.next_page("/admin/jobs", page.next, state=state, kind=kind),
    )


@router.get("/audit")
@allow("audit.read")
def audit(
    request: Request, ctx: ContextDep, action: Action = "", user: User = "", before: settings.Before = None
) -> Response:
    """Show who did what on this server, newest first."""
    with ctx.database.read() as session:
        page = feed_views.audit(session, action=action or None, user=user or None, before=before, limit=PAGE)
    return render.page(
        request,
        "admin_audit.html",
        page=page,
        action=action,
        user=user,
        before=before,
        next=render.next_page("/admin/audit", page.next, action=action, user=user),
    )

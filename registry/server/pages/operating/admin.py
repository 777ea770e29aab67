"""Pages for those who watch over the server: what there is, what workers do, what happened."""

from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api import admin, feed
from registry.server.api.admin import Before
from registry.server.edge.deps import ContextDep, allow
from registry.server.pages.catalog.settings import PAGE, Action, User
from registry.server.pages.frame import render
from registry.server.pages.frame.route import PageRoute

router = APIRouter(prefix="/admin", route_class=PageRoute, include_in_schema=False)
State = Annotated[schemas.JobState | Literal[""], Query()]  # a choice that was left open is sent as nothing
Kind = Annotated[schemas.JobKind | Literal[""], Query()]


@router.get("")
@allow("admin.read")
def dashboard(request: Request, ctx: ContextDep) -> Response:
    """Show how many there are of everything, and whether somebody works."""
    found = admin.summary(ctx)
    return render.page(
        request,
        "admin.html",
        summary=found,
        patches=[(state.replace("_", " "), number) for state, number in found.patches.items()],
        jobs=list(found.jobs.items()),
        workers=admin.list_workers(ctx),
    )


@router.get("/workers")
@allow("admin.read")
def workers(request: Request, ctx: ContextDep) -> Response:
    """Show the workers of the last day, and what they are at."""
    return render.page(request, "admin_workers.html", workers=admin.list_workers(ctx))


@router.get("/jobs")
@allow("admin.read")
def jobs(request: Request, ctx: ContextDep, state: State = "", kind: Kind = "", before: Before = None) -> Response:
    """Show the jobs of all models, newest first."""
    page = admin.list_jobs(ctx, state=state or None, kind=kind or None, before=before)
    following = render.query(state=state, kind=kind, before=page.next)
    return render.page(
        request,
        "admin_jobs.html",
        page=page,
        state=state,
        kind=kind,
        before=before,
        states=get_args(schemas.JobState),
        kinds=get_args(schemas.JobKind),
        next=f"/admin/jobs{following}" if page.next else None,
    )


@router.get("/audit")
@allow("audit.read")
def audit(
    request: Request, ctx: ContextDep, action: Action = "", user: User = "", before: feed.Before = None
) -> Response:
    """Show who did what on this server, newest first."""
    page = feed.audit(ctx, action=action or None, user=user or None, before=before, limit=PAGE)
    following = render.query(action=action, user=user, before=page.next)
    return render.page(
        request,
        "admin_audit.html",
        page=page,
        action=action,
        user=user,
        before=before,
        next=f"/admin/audit{following}" if page.next else None,
    )

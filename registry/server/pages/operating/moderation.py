"""Pages on which admins decide: reports, what is in quarantine, what namespaces may hold."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.errors import InvalidRequest
from registry.files.names import NAME
from registry.server.api import admin, reviews
from registry.server.api.admin import Before
from registry.server.api.people import NamespaceName
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, Number, allow
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect

router = APIRouter(prefix="/admin", route_class=PageRoute, include_in_schema=False)
Words = Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")]
After = Annotated[str, Query(pattern=rf"^({NAME})?$")]
GIB = 2**30
PAGE = 20


@router.get("/reports")
@allow("admin.read")
def listing(request: Request, ctx: ContextDep, closed: bool = False, before: Before = None) -> Response:
    """Show the open reports, or the closed ones, newest first."""
    page = admin.list_reports(ctx, open=not closed, before=before, limit=PAGE)
    following = render.query(closed="true" if closed else None, before=page.next)
    return render.page(
        request,
        "admin_reports.html",
        page=page,
        closed=closed,
        before=before,
        next=f"/admin/reports{following}" if page.next else None,
    )


@router.post("/reports/{report_id}/close")
@allow("admin.manage")
def close(request: Request, report_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Close a report with what came of it."""
    admin.close_report(report_id, forms.read(schemas.ReportAnswer, request), actor, ctx)
    return redirect(request, "/admin/reports")


@router.get("/quarantine")
@allow("admin.read")
def quarantine(request: Request, ctx: ContextDep, before: Before = None) -> Response:
    """Show the patches in quarantine, the last that came there first."""
    page = admin.quarantine(ctx, before=before, limit=PAGE)
    following = f"/admin/quarantine{render.query(before=page.next)}" if page.next else None
    return render.page(request, "admin_quarantine.html", page=page, before=before, next=following)


@router.post("/quarantine/{namespace}/{name}/{number}")
@allow("patch.quarantine")
def set_quarantine(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Put a patch into quarantine."""
    reviews.quarantine(name, number, forms.read(schemas.QuarantineRequest, request), actor, ctx)
    return redirect(request, "/admin/quarantine")


@router.post("/quarantine/{namespace}/{name}/{number}/end")
@allow("patch.quarantine")
def end_quarantine(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Let a patch out of quarantine."""
    reviews.quarantine(name, number, schemas.QuarantineRequest(reason=None), actor, ctx)
    return redirect(request, "/admin/quarantine")


@router.get("/namespaces")
@allow("admin.read")
def list_namespaces(request: Request, ctx: ContextDep, search: Words = "", after: After = "") -> Response:
    """Show what namespaces may hold and what they hold, by name."""
    page = admin.list_namespaces(ctx, search=search or None, after=after or None)
    following = render.query(search=search, after=page.next)
    return render.page(
        request,
        "admin_namespaces.html",
        page=page,
        search=search,
        after=after,
        next=f"/admin/namespaces{following}" if page.next else None,
    )


@router.post("/namespaces/{namespace}/quota")
@allow("admin.manage")
def set_quota(request: Request, namespace: NamespaceName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Give a namespace quotas of its own; what is left empty is the server's."""
    uploads = forms.field(request, "uploads") or None
    body = forms.read(schemas.QuotaRequest, request, bytes=gibibytes(request, "gib"), uploads=uploads)
    admin.set_quota(namespace, body, actor, ctx)
    return redirect(request, f"/admin/namespaces{render.query(search=namespace)}")


def gibibytes(request: Request, name: str) -> int | None:
    """Return the bytes that a field in GiB stands for; None where it was left empty.

    Raises:
        InvalidRequest: it is no such number.
    """
    text = forms.field(request, name)
    try:
        return round(float(text) * GIB) if text else None
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"A quota is a number of GiB, like 50 or 0.5, and not {text[:40]!r}.", field=name
        ) from None

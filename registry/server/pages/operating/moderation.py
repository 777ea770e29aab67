"""Pages of moderation for admins: reports, quarantine, quotas."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.errors import InvalidRequest
from registry.files.names import NAME
from registry.server.api import admin, reviews
from registry.server.api.admin import Before
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName, NamespaceName, Number
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import admin as admin_views

router = APIRouter(prefix="/admin", route_class=PageRoute, include_in_schema=False)
Words = Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")]
After = Annotated[str, Query(pattern=rf"^({NAME})?$")]
GIB = 2**30
PAGE, NAMESPACES = 20, 50  # rows of a page


@router.get("/reports")
@allow("admin.read")
def listing(request: Request, ctx: ContextDep, closed: bool = False, before: Before = None) -> Response:
    """Show the open reports, or the closed ones, newest first."""
    with ctx.database.read() as session:
        page = admin_views.report_page(session, is_open=not closed, before=before, limit=PAGE)
    return render.page(
        request,
        "admin_reports.html",
        page=page,
        closed=closed,
        before=before,
        next=render.next_page("/admin/reports", page.next, closed="true" if closed else None),
    )


@router.post("/reports/{report_id}/close")
@allow("admin.manage")
def close(request: Request, report_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Close a report with an answer."""
    admin.close_report(report_id, forms.read(schemas.ReportAnswer, request), actor, ctx)
    return redirect(request, "/admin/reports")


@router.get("/quarantine")
@allow("admin.read")
def quarantine(request: Request, ctx: ContextDep, before: Before = None) -> Response:
    """Show the patches in quarantine, the last quarantined first."""
    with ctx.database.read() as session:
        page = admin_views.quarantine_page(session, before, PAGE)
    following = render.next_page("/admin/quarantine", page.next)
    return render.page(request, "admin_quarantine.html", page=page, before=before, next=following)


@router.post("/quarantine/{namespace}/{name}/{number}")
@allow("patch.quarantine")
def set_quarantine(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Quarantine a patch."""
    reviews.quarantine(name, number, forms.read(schemas.QuarantineRequest, request), actor, ctx)
    return redirect(request, "/admin/quarantine")


@router.post("/quarantine/{namespace}/{name}/{number}/end")
@allow("patch.quarantine")
def end_quarantine(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """End the quarantine of a patch."""
    reviews.quarantine(name, number, schemas.QuarantineRequest(reason=None), actor, ctx)
    return redirect(request, "/admin/quarantine")


@router.get("/namespaces")
@allow("admin.read")
def list_namespaces(request: Request, ctx: ContextDep, search: Words = "", after: After = "") -> Response:
    """Show the quotas of namespaces and their usage, by name."""
    with ctx.database.read() as session:
        page = admin_views.namespace_page(session, ctx.upload_limits, search or None, after or None, NAMESPACES)
    return render.page(
        request,
        "admin_namespaces.html",
        page=page,
        search=search,
        after=after,
        next=render.next_page("/admin/namespaces", page.next, "after", search=search),
    )


@router.post("/namespaces/{namespace}/quota")
@allow("admin.manage")
def set_quota(request: Request, namespace: NamespaceName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Set the quotas of a namespace; an empty field is the server's quota."""
    uploads = forms.field(request, "uploads") or None
    body = forms.read(schemas.QuotaRequest, request, bytes=gibibytes(request, "gib"), uploads=uploads)
    admin.set_quota(namespace, body, actor, ctx)
    return redirect(request, f"/admin/namespaces{render.query(search=namespace)}")


def gibibytes(request: Request, name: str) -> int | None:
    """Return a field in GiB as bytes; None if it is empty.

    Raises:
        InvalidRequest: The field is not a number.
    """
    text = forms.field(request, name)
    try:
        return round(float(text) * GIB) if text else None
    except (ValueError, OverflowError):
        raise InvalidRequest(
            f"A quota must be a number of GiB, like 50 or 0.5, not {text[:40]!r}.", field=name
        ) from None

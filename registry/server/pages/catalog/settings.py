"""Pages of a model's settings: its requirements, its members, and its audit log."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.files.names import NAME
from registry.server.api import models
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import feed as feed_views
from registry.server.views import models as model_views

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
Action = Annotated[str, Query(pattern=r"^([a-z]{1,20}\.(\*|[a-z_]{1,40}))?$")]
User = Annotated[str, Query(pattern=rf"^({NAME})?$")]
Before = Annotated[int | None, Query(ge=1, le=2**63 - 1)]
PAGE = 50


@router.get("/settings")
@allow("model.manage")
def settings(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show the settings of a model, and its members."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown, members = model_views.show(session, actor, row), model_views.members(session, row)
    return render.page(request, "settings.html", model=shown, members=members)


@router.post("/settings")
@allow("model.manage")
def update(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Change a model's visibility, its licence, the requirements for accepting a patch, or how patches are made."""
    lines = forms.field(request, "required_evaluations").splitlines()
    required = [line.strip() for line in lines if line.strip()]  # an empty list is a value, too
    mask = forms.read(schemas.MaskRequest, request)
    body = forms.read(schemas.ModelUpdate, request, required_evaluations=required, mask=mask)
    models.update(name, body, actor, ctx)
    return redirect(request, f"/{name}/settings")


@router.post("/settings/members")
@allow("model.manage")
def set_member(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Give a user a role on a model."""
    models.set_member(name, forms.user_name(request), forms.read(schemas.MemberRequest, request), actor, ctx)
    return redirect(request, f"/{name}/settings")


@router.post("/settings/members/remove")
@allow("model.manage")
def remove_member(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Remove a user's role on a model."""
    models.remove_member(name, forms.user_name(request), actor, ctx)
    return redirect(request, f"/{name}/settings")


@router.get("/audit")
@allow("model.audit")
def audit(
    request: Request,
    name: ModelName,
    actor: ActorDep,
    ctx: ContextDep,
    action: Action = "",
    user: User = "",
    before: Before = None,
) -> Response:
    """Show who did what to a model, newest first."""
    with ctx.database.read() as session:
        row = model_views.find(session, name)
        shown = model_views.show(session, actor, row)
        page = feed_views.audit(session, model=row, action=action or None, user=user or None, before=before, limit=PAGE)
    return render.page(
        request,
        "audit.html",
        model=shown,
        page=page,
        action=action,
        user=user,
        before=before,
        next=render.next_page(f"/{name}/audit", page.next, action=action, user=user),
    )

"""Pages of how a model is kept: what it asks for, who is what to it, and what happened to it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.files.names import NAME
from registry.server.api import feed, models
from registry.server.api.feed import Before
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, allow
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.pages.people.namespaces import whom

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
Action = Annotated[str, Query(pattern=r"^([a-z]{1,20}\.(\*|[a-z_]{1,40}))?$")]
User = Annotated[str, Query(pattern=rf"^({NAME})?$")]
PAGE = 50


@router.get("/settings")
@allow("model.manage")
def settings(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show the settings of a model, and its members."""
    shown, members = models.show(name, actor, ctx), models.members(name, ctx)
    return render.page(request, "settings.html", model=shown, members=members)


@router.post("/settings")
@allow("model.manage")
def update(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Change who sees a model, its licence, or what accepting a patch needs."""
    lines = forms.field(request, "required_evaluations").splitlines()
    needed = [line.strip() for line in lines if line.strip()]  # none at all is an answer, too
    models.update(name, forms.read(schemas.ModelUpdate, request, required_evaluations=needed), actor, ctx)
    return redirect(request, f"/{name}/settings")


@router.post("/settings/members")
@allow("model.manage")
def set_member(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Give somebody a role on a model."""
    models.set_member(name, whom(request), forms.read(schemas.MemberRequest, request), actor, ctx)
    return redirect(request, f"/{name}/settings")


@router.post("/settings/members/remove")
@allow("model.manage")
def remove_member(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Take somebody's role on a model away."""
    models.remove_member(name, whom(request), actor, ctx)
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
    page = feed.model_audit(name, ctx, action=action or None, user=user or None, before=before, limit=PAGE)
    following = render.query(action=action, user=user, before=page.next)
    return render.page(
        request,
        "audit.html",
        model=models.show(name, actor, ctx),
        page=page,
        action=action,
        user=user,
        before=before,
        next=f"/{name}/audit{following}" if page.next else None,
    )

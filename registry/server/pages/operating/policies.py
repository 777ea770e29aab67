"""The page of limits and policy for admins: what they may change, and what only the operator can."""

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api import admin
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import admin as admin_views

router = APIRouter(prefix="/admin", route_class=PageRoute, include_in_schema=False)
NONE = "none"  # of the Hub's models


@router.get("/policy")
@allow("admin.read")
def policy(request: Request, ctx: ContextDep) -> Response:
    """Show the policy, which admins may change, and the limits that the operator sets."""
    with ctx.database.read() as session:
        shown = admin_views.policy_now(session, ctx.settings.registration)
    limits = admin_views.settings(ctx.settings)
    groups = list(dict.fromkeys(limit.group for limit in limits))
    return render.page(
        request,
        "admin_policy.html",
        policy=shown,
        setting=ctx.settings.registration,
        limits=[(group, [limit for limit in limits if limit.group == group]) for group in groups],
    )


@router.post("/policy")
@allow("admin.manage")
def change(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Change the policy; an empty field asks for nothing."""
    hub = lines(request, "hub_models")
    body = forms.read(
        schemas.PolicyRequest,
        request,
        registration=forms.field(request, "registration") or None,
        licenses=lines(request, "licenses") or None,
        min_drop_bottom=forms.field(request, "min_drop_bottom") or None,
        min_drop_top=forms.field(request, "min_drop_top") or None,
        hub_models=[] if hub == [NONE] else hub or None,
    )
    admin.set_policy(body, actor, ctx)
    return redirect(request, "/admin/policy")


def lines(request: Request, name: str) -> list[str]:
    """Return the lines of a field that are not empty."""
    return [line.strip() for line in forms.field(request, name).splitlines() if line.strip()]

"""The page of one's own profile."""

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api.accounts import joining
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views.accounts import joining as joining_views

router = APIRouter(prefix="/settings/profile", route_class=PageRoute, include_in_schema=False)


@router.get("")
@allow("user.read")
def profile(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show how the visitor is called, with a form that changes it."""
    with ctx.database.read() as session:
        shown = joining_views.profile(session, actor, actor.name)
    return render.page(request, "profile.html", profile=shown)


@router.post("")
@allow("account.manage")
def update(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Change how the visitor wants to be called; an empty field means by their name."""
    body = schemas.ProfileUpdate(display_name="") if not forms.field(request, "display_name") else None
    joining.update_profile(body or forms.read(schemas.ProfileUpdate, request), actor, ctx)
    return redirect(request, f"/{actor.name}")

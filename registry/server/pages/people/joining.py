"""Pages of joining: asking for an account, and using an invitation."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api.accounts import joining
from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.answers import answer_page
from registry.server.pages.frame.cookies import sign_in
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views.accounts import joining as joining_views

router = APIRouter(prefix="/join", route_class=PageRoute, include_in_schema=False)


@router.get("")
@allow("server.read")
def join(
    request: Request,
    ctx: ContextDep,
    invitation: Annotated[str, Query(max_length=200, pattern=r"^[A-Za-z0-9_-]*$")] = "",
) -> Response:
    """Show the form that uses an invitation, or the one that asks for an account."""
    with ctx.database.read() as session:
        if not invitation:
            how = joining_views.registration(session, ctx.settings.registration)
            return render.page(request, "join.html", registration=how)
        shown = joining_views.look(session, invitation)
    return render.page(request, "invitation.html", invitation=shown, secret=invitation)


@router.post("")
@allow("join.ask")
def ask(request: Request, actor: VisitorDep, ctx: ContextDep, url: PublicUrl) -> Response:
    """Ask for an account, and show the address that lets one in once an admin approves."""
    body = forms.read(schemas.AskRequest, request)
    return answer_page(request, "asked.html", asked=joining.ask(body, actor, ctx, request, url))


@router.post("/accept")
@allow("join.accept")
def accept(request: Request, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Use an invitation: show a new account's first token and sign its browser in, or lead to where the role is."""
    body = forms.read(schemas.AcceptInvitation, request)
    joined = joining.accept(body, actor, ctx, request)
    if joined.token is None:
        return redirect(request, f"/{joined.namespace}")
    response = answer_page(request, "joined.html", joined=joined, provider=ctx.settings.oidc_title)
    sign_in(request, response, joined.token)
    return response

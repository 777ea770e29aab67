"""Pages of signing in with a token, and of signing out."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry.errors import Unauthenticated
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import cookies, forms, render
from registry.server.pages.frame.cookies import cookie, set_cookie
from registry.server.pages.frame.route import PageRoute, local, redirect, refusal
from registry.server.views.accounts import joining as joining_views
from registry.services.people import sign_ins

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/login")
@allow("server.read")
def login(request: Request, ctx: ContextDep, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    """Show the form that takes a token."""
    with ctx.database.read() as session:
        registration = joining_views.registration(session, ctx.settings.registration)
    return render.page(
        request,
        "login.html",
        next=local(next),
        registration=registration,
        provider=ctx.settings.oidc_title,
    )


@router.post("/login")
@allow("server.read")
def sign_in(request: Request) -> Response:
    """Sign the browser in with a token."""
    response = redirect(request, local(forms.field(request, "next") or "/"))
    try:
        cookies.sign_in(request, response, forms.field(request, "token"))
    except Unauthenticated as why:
        return refusal(request, 401, f"{why.message.partition(';')[0].removesuffix('.')}.")
    return response


@router.post("/logout")
@allow("user.read")
def sign_out(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Sign the browser out."""
    with ctx.database.write() as session:
        sign_ins.end(session, actor, cookie(request))
    response = redirect(request, "/")
    set_cookie(request, response, None)
    return response

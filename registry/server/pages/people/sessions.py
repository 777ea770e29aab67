"""Pages of sign-ins: where one is signed in, linked accounts, and programs that ask to be let in."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api.accounts import sessions
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.answers import answer_page
from registry.server.pages.frame.cookies import cookie
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views.accounts import sessions as session_views

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/settings/sessions")
@allow("user.read")
def listing(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Show where the visitor is signed in, and the accounts that are linked to theirs."""
    with ctx.database.read() as session:
        shown = session_views.sessions(session, actor, cookie(request))
    return render.page(request, "sessions.html", shown=shown, provider=ctx.settings.oidc_title)


@router.post("/settings/sessions/{session_id}/end")
@allow("account.manage")
def end(request: Request, session_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Sign a browser of the visitor's out."""
    sessions.end_session(session_id, actor, ctx)
    return redirect(request, "/settings/sessions")


@router.post("/settings/sessions/accounts/{account_id}/unlink")
@allow("account.manage")
def unlink(request: Request, account_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Unlink an account at the provider."""
    sessions.unlink_account(account_id, actor, ctx)
    return redirect(request, "/settings/sessions")


@router.get("/device")
@allow("token.manage")
def device(
    request: Request,
    actor: ActorDep,
    ctx: ContextDep,
    code: Annotated[str, Query(max_length=9, pattern=r"^[A-Za-z -]*$")] = "",
) -> Response:
    """Ask for the code of a program, or show the program that waits with it."""
    if not code:
        return render.page(request, "device.html", device=None, code="")
    with ctx.database.read() as session:
        shown = session_views.look_at_device(session, code)
    return render.page(request, "device.html", device=shown, code=code)


@router.post("/device")
@allow("token.manage")
def decide(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Let a program in, or turn it away."""
    body = forms.read(schemas.DeviceDecision, request)
    return answer_page(request, "device_done.html", device=sessions.decide_on_device(body, actor, ctx))

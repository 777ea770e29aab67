"""Pages of one's own tokens: what there are, another one, an end to one."""

import uuid

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.db.tables import now
from registry.server.api import people
from registry.server.edge.deps import ActorDep, ContextDep, allow
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.once import shown_once
from registry.server.pages.frame.route import PageRoute, redirect
from registry.services.people.actors import Actor
from registry.services.people.rules import SCOPES

router = APIRouter(prefix="/settings/tokens", route_class=PageRoute, include_in_schema=False)
MOST = 200  # on the page


@router.get("")
@allow("user.read")
def tokens(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """List the tokens of whoever has signed in, newest first, with a form for another one."""
    found = people.list_tokens(actor, ctx)
    return render.page(
        request,
        "tokens.html",
        tokens=found[:MOST],
        left_out=len(found[MOST:]),
        scopes=[scope for scope in SCOPES if scope in actor.scopes],
        manages=manages(actor),
        now=now(),
    )


@router.post("")
@allow("token.manage")
def create(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Make a token, and show its secret this once."""
    body = forms.read(schemas.TokenRequest, request)
    return shown_once(request, "token_made.html", token=people.create_token(body, actor, ctx))


@router.post("/{token_id}/revoke")
@allow("token.manage")
def revoke(request: Request, token_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Revoke a token; with the one that has signed in, the browser is signed out."""
    people.revoke_token(token_id, actor, ctx)
    return redirect(request, "/settings/tokens" if token_id != actor.token.id else "/login")


def manages(actor: Actor) -> bool:
    """Say whether the token that has signed in may make and revoke others."""
    return "admin" in actor.scopes and actor.token.model_id is None

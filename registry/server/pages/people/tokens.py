"""The page of one's own tokens, with forms to create and revoke them."""

import uuid
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api import people
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import forms, render
from registry.server.pages.frame.answers import answer_page
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import people as people_views
from registry.services.people.actors import Actor
from registry.services.people.rules import SCOPES

router = APIRouter(prefix="/settings/tokens", route_class=PageRoute, include_in_schema=False)
MOST = 200  # tokens on the page


@router.get("")
@allow("user.read")
def tokens(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """List the visitor's tokens, newest first, with a form that creates another."""
    with ctx.database.read() as session:
        shown = people_views.token_list(session, actor)
    return render.page(
        request,
        "tokens.html",
        tokens=shown[:MOST],
        left_out=len(shown[MOST:]),
        scopes=[scope for scope in SCOPES if scope in actor.scopes],
        manages=manages(actor),
        now=datetime.now(UTC),
    )


@router.post("")
@allow("token.manage")
def create(request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Create a token, and show its secret once."""
    body = forms.read(schemas.TokenRequest, request)
    return answer_page(request, "token_made.html", token=people.create_token(body, actor, ctx))


@router.post("/{token_id}/revoke")
@allow("token.manage")
def revoke(request: Request, token_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Revoke a token; revoking the one used to sign in signs the browser out."""
    people.revoke_token(token_id, actor, ctx)
    return redirect(request, "/settings/tokens" if token_id != actor.token.id else "/login")


def manages(actor: Actor) -> bool:
    """Return whether the token used to sign in may create and revoke others."""
    return "admin" in actor.scopes and actor.token.model_id is None

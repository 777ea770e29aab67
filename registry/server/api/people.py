"""Routes of users, organisations and tokens."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import NamespaceName, UserName
from registry.server.errors import RESPONSES
from registry.server.views import people as people_views
from registry.server.views import reviews as review_views
from registry.services.people import access, namespaces, tokens

After = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]*$")]
router = APIRouter(prefix="/api/v1", tags=["people"], route_class=Route, responses=RESPONSES)


@router.get("/whoami")
@allow("user.read")
def whoami(actor: ActorDep) -> schemas.Whoami:
    """Show the user that the token speaks for."""
    return people_views.whoami(actor)


@router.get("/inbox")
@allow("inbox.list")
def list_inbox(
    actor: ActorDep, ctx: ContextDep, after: After = None, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> schemas.WaitingModelPage:
    """List the models in which something waits for you, and how much."""
    with ctx.database.read() as session:
        return review_views.waiting_models(session, actor, after, limit)


@router.get("/tokens")
@allow("user.read")
def list_tokens(actor: ActorDep, ctx: ContextDep) -> list[schemas.Token]:
    """List your tokens, without their secrets."""
    with ctx.database.read() as session:
        return people_views.token_list(session, actor)


@router.post("/tokens", status_code=201)
@allow("token.manage")
def create_token(body: schemas.TokenRequest, actor: ActorDep, ctx: ContextDep) -> schemas.NewToken:
    """Create a token that may do no more than the one you use; only this answer shows its secret."""
    with ctx.database.write() as session:
        model = access.find_visible(session, actor, body.model) if body.model else None
        secret, row = tokens.create_own(session, actor, body.scopes, body.label, body.expires_days, model)
        return schemas.NewToken(token=secret, **people_views.token(row, body.model).model_dump())


@router.delete("/tokens/{token_id}", status_code=204)
@allow("token.manage")
def revoke_token(token_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Revoke one of your tokens at once."""
    with ctx.database.write() as session:
        tokens.revoke_own(session, actor, token_id)


@router.post("/namespaces", status_code=201)
@allow("namespace.create")
def create_namespace(body: schemas.NamespaceRequest, actor: ActorDep, ctx: ContextDep) -> schemas.Namespace:
    """Create an organisation, with you as its owner."""
    with ctx.database.write() as session:
        namespaces.create_organisation(session, actor, body.name)
        return people_views.show_namespace(session, actor, body.name, ctx.upload_limits)


@router.get("/namespaces/{namespace}")
@allow("namespace.read")
def namespace(namespace: NamespaceName, actor: ActorDep, ctx: ContextDep) -> schemas.Namespace:
    """Show a namespace and its members; its maintainers also see the usage of its quota."""
    with ctx.database.read() as session:
        return people_views.show_namespace(session, actor, namespace, ctx.upload_limits)


@router.put("/namespaces/{namespace}/members/{user}", status_code=204)
@allow("namespace.manage")
def set_member(
    namespace: NamespaceName, user: UserName, body: schemas.MemberRequest, actor: ActorDep, ctx: ContextDep
) -> None:
    """Give a user a role on every model of a namespace."""
    with ctx.database.write() as session:
        namespaces.set_member(session, actor, namespace, user, body.role)


@router.delete("/namespaces/{namespace}/members/{user}", status_code=204)
@allow("namespace.manage")
def remove_member(namespace: NamespaceName, user: UserName, actor: ActorDep, ctx: ContextDep) -> None:
    """Remove a user's role in a namespace."""
    with ctx.database.write() as session:
        namespaces.set_member(session, actor, namespace, user, None)

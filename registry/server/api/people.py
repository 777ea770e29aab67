"""Routes of users, organisations and tokens."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Path

from registry import schemas
from registry.files.names import NAME
from registry.server.edge.deps import ActorDep, Context, ContextDep, Route, UserName, allow
from registry.server.errors import RESPONSES
from registry.server.views import people as people_views
from registry.services.blobs import quotas
from registry.services.people import access, namespaces, tokens
from registry.services.people.actors import Actor
from registry.services.people.rules import Role

router = APIRouter(prefix="/api/v1", tags=["people"], route_class=Route, responses=RESPONSES)
NamespaceName = Annotated[str, Path(pattern=rf"^{NAME}$", alias="namespace")]


@router.get("/whoami")
@allow("user.read")
def whoami(actor: ActorDep) -> schemas.Whoami:
    """Say who the token speaks for."""
    return people_views.whoami(actor)


@router.get("/tokens")
@allow("user.read")
def list_tokens(actor: ActorDep, ctx: ContextDep) -> list[schemas.Token]:
    """List your tokens, without their secrets."""
    with ctx.database.read() as session:
        found = tokens.listing(session, actor)
        names = tokens.model_names(session, found)
        return [people_views.token(row, names[row.model_id] if row.model_id else None) for row in found]


@router.post("/tokens", status_code=201)
@allow("token.manage")
def create_token(body: schemas.TokenRequest, actor: ActorDep, ctx: ContextDep) -> schemas.NewToken:
    """Make a token that can do no more than the one you ask with; its secret is in this answer alone."""
    with ctx.database.write() as session:
        model = access.find_visible(session, actor, body.model) if body.model else None
        secret, row = tokens.create_own(session, actor, body.scopes, body.label, body.expires_days, model)
        shown = people_views.token(row, body.model)
    return schemas.NewToken(token=secret, **shown.model_dump())


@router.delete("/tokens/{token_id}", status_code=204)
@allow("token.manage")
def revoke_token(token_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Revoke one of your tokens at once."""
    with ctx.database.write() as session:
        tokens.revoke_own(session, actor, token_id)


@router.post("/namespaces", status_code=201)
@allow("namespace.create")
def create_namespace(body: schemas.NamespaceRequest, actor: ActorDep, ctx: ContextDep) -> schemas.Namespace:
    """Make an organisation, which is yours."""
    with ctx.database.write() as session:
        namespaces.create_organisation(session, actor, body.name)
    return show_namespace(body.name, actor, ctx)


@router.get("/namespaces/{namespace}")
@allow("namespace.read")
def namespace(namespace: NamespaceName, actor: ActorDep, ctx: ContextDep) -> schemas.Namespace:
    """Show a namespace and its members; to its maintainers, how much of its quota is used."""
    return show_namespace(namespace, actor, ctx)


@router.put("/namespaces/{namespace}/members/{user}", status_code=204)
@allow("namespace.manage")
def set_member(
    namespace: NamespaceName, user: UserName, body: schemas.MemberRequest, actor: ActorDep, ctx: ContextDep
) -> None:
    """Give somebody a role on every model of a namespace."""
    with ctx.database.write() as session:
        namespaces.set_member(session, actor, namespace, user, body.role)


@router.delete("/namespaces/{namespace}/members/{user}", status_code=204)
@allow("namespace.manage")
def remove_member(namespace: NamespaceName, user: UserName, actor: ActorDep, ctx: ContextDep) -> None:
    """Take somebody's role in a namespace away."""
    with ctx.database.write() as session:
        namespaces.set_member(session, actor, namespace, user, None)


def show_namespace(name: str, actor: Actor, ctx: Context) -> schemas.Namespace:
    """Show a namespace in a reading transaction of its own."""
    limits = ctx.upload_limits
    with ctx.database.read() as session:
        space = namespaces.find(session, name)
        watched = access.role_in(session, actor, space) >= Role.MAINTAINER
        used = quotas.usage(session, space, limits.quota_bytes, limits.quota_uploads) if watched else None
        return people_views.namespace(space, used, namespaces.members(session, space))

"""Routes of trusted publishing: workflows that may push to a model, and the exchange of their identity for a token."""

import uuid

from fastapi import APIRouter, Request

from registry import schemas
from registry.errors import Unauthenticated
from registry.server.edge.admission import ActorDep, Route, allow, count_stranger
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.edge.paths import ModelName
from registry.server.errors import RESPONSES
from registry.server.views import models as model_views
from registry.server.views.accounts import publishers as publisher_views
from registry.services.catalog import publishers

router = APIRouter(prefix="/api/v1", tags=["publishers"], route_class=Route, responses=RESPONSES)


@router.get("/models/{namespace}/{name}/publishers")
@allow("publisher.manage")
def list_publishers(name: ModelName, ctx: ContextDep) -> list[schemas.Publisher]:
    """List the workflows that may push to a model, oldest first."""
    with ctx.database.read() as session:
        return publisher_views.listing(session, model_views.find(session, name))


@router.post("/models/{namespace}/{name}/publishers", status_code=201)
@allow("publisher.manage")
def create_publisher(
    name: ModelName, body: schemas.PublisherRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Publisher:
    """Let a workflow push to a model by its own identity; the same again is the same."""
    if body.issuer is not None:
        ctx.providers.check_issuer(body.issuer)
    with ctx.database.write() as session:
        row = publishers.create(session, actor, name, body.kind, body.user, body.issuer, body.wanted())
        return publisher_views.publisher(row)


@router.delete("/models/{namespace}/{name}/publishers/{publisher_id}", status_code=204)
@allow("publisher.manage")
def remove_publisher(name: ModelName, publisher_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> None:
    """Keep a workflow from pushing to a model; its tokens end at once."""
    with ctx.database.write() as session:
        publishers.remove(session, actor, name, publisher_id)


@router.post("/publishing/token")
@allow("publisher.exchange")
def exchange_identity(
    body: schemas.IdentityExchange, ctx: ContextDep, request: Request, url: PublicUrl
) -> schemas.PublishingToken:
    """Exchange the identity token of a workflow for one that pushes, once; its audience is this registry's address."""
    count_stranger(request)
    said = ctx.providers.peek(body.token)
    issuer = said["iss"]
    with ctx.database.read() as session:
        known = publishers.of_issuer(session, body.model, issuer)
        public = any(publishers.is_public(session, row) for row in known)
    if not known:  # nobody is called whom no owner has named
        raise publishers.no_publisher(body.model, said)
    try:
        claims = ctx.providers.verify(body.token, issuer, url)
        with ctx.database.write() as session:
            secret, token = publishers.exchange(
                session, body.model, issuer, claims, body.token, request.state.request_id
            )
    except Unauthenticated as why:
        if public:
            raise
        raise publishers.no_publisher(body.model, said) from why
    assert token.expires_at is not None
    return schemas.PublishingToken(user=token.user.name, model=body.model, token=secret, expires_at=token.expires_at)

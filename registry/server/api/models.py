"""Routes of models, and of what can be pulled from them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from registry import schemas
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, Route, UserName, VisitorDep, allow
from registry.server.edge.files import send
from registry.server.errors import RESPONSES
from registry.server.views import models as model_views
from registry.server.views import people as people_views
from registry.services.catalog import models
from registry.services.composing import snapshots
from registry.services.people import access

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=Route, responses=RESPONSES)
Ref = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]{0,99}$", examples=["base"])]
FilePath = Annotated[str, Path(pattern=r"^[ -~]{1,255}$")]
Words = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]


@router.post("", status_code=202)
@allow("model.create")
def create(body: schemas.ModelRequest, actor: ActorDep, ctx: ContextDep) -> schemas.Model:
    """Create a model from uploaded files, or from a base at a Hub; a worker checks them before patches are taken."""
    files = [(file.path, file.sha256) for file in body.files]
    with ctx.database.write() as session:
        model, job = models.create(
            session,
            actor,
            body.name,
            files,
            source=body.source,
            by_reference=body.source is not None and body.by_reference,
            visibility=body.visibility,
            license=body.license,
        )
        return model_views.model(model, job)


@router.get("")
@allow("server.read")
def listing(
    actor: VisitorDep,
    ctx: ContextDep,
    search: Words = None,
    author: Words = None,
    after: Words = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.ModelPage:
    """List models by name."""
    with ctx.database.read() as session:
        found, cursor = models.listing(session, actor, search, author, after, limit)
        return schemas.ModelPage(items=[model_views.model(model, card=False) for model in found], next=cursor)


@router.get("/{namespace}/{name}")
@allow("model.read")
def show(name: ModelName, actor: VisitorDep, ctx: ContextDep) -> schemas.Model:
    """Show a model."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        return model_views.model(model, models.import_job(session, model), role=access.role_on(session, actor, model))


@router.patch("/{namespace}/{name}")
@allow("model.manage")
def update(name: ModelName, body: schemas.ModelUpdate, actor: ActorDep, ctx: ContextDep) -> schemas.Model:
    """Change who sees a model, its licence, or what accepting a patch needs."""
    with ctx.database.write() as session:
        model = models.update(session, actor, name, body.model_dump(exclude_none=True))
        return model_views.model(model, models.import_job(session, model), role=access.role_on(session, actor, model))


@router.get("/{namespace}/{name}/members")
@allow("model.read")
def members(name: ModelName, ctx: ContextDep) -> list[schemas.Member]:
    """List who is what to a model, through it or through its namespace."""
    with ctx.database.read() as session:
        return [people_views.member(row, via) for row, via in models.members(session, models.find(session, name))]


@router.put("/{namespace}/{name}/members/{user}", status_code=204)
@allow("model.manage")
def set_member(name: ModelName, user: UserName, body: schemas.MemberRequest, actor: ActorDep, ctx: ContextDep) -> None:
    """Give somebody a role on a model."""
    with ctx.database.write() as session:
        models.set_member(session, actor, name, user, body.role)


@router.delete("/{namespace}/{name}/members/{user}", status_code=204)
@allow("model.manage")
def remove_member(name: ModelName, user: UserName, actor: ActorDep, ctx: ContextDep) -> None:
    """Take somebody's role on a model away."""
    with ctx.database.write() as session:
        models.set_member(session, actor, name, user, None)


@router.get("/{namespace}/{name}/revisions/{ref}")
@allow("model.read")
def snapshot(name: ModelName, ref: Ref, actor: VisitorDep, ctx: ContextDep) -> schemas.Snapshot:
    """Show what a reference stands for: `main`, `base`, a version, a channel, or a recipe by 8 digits or more."""
    with ctx.database.read() as session:
        return model_views.snapshot(session, *snapshots.resolve(session, actor, name, ref))


@router.head("/{namespace}/{name}/revisions/{ref}/files/{path:path}", include_in_schema=False)
@router.get("/{namespace}/{name}/revisions/{ref}/files/{path:path}", response_class=Response)
@allow("model.read")
def file(name: ModelName, ref: Ref, path: FilePath, request: Request, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Download a file of a revision."""
    with ctx.database.read() as session:
        model, found = snapshots.resolve(session, actor, name, ref)
    return send(request, ctx, model, found, path, immutable=found.fixed and ref == found.ref)

"""Routes of models, and of what can be pulled from them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from registry import schemas
from registry.server import views
from registry.server.deps import ActorDep, ContextDep, ModelName, Route, allow
from registry.server.downloads import serve
from registry.server.errors import RESPONSES
from registry.services import compositions, models

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=Route, responses=RESPONSES)
Ref = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$", examples=["base"])]
FilePath = Annotated[str, Path(pattern=r"^[ -~]{1,255}$")]
Words = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]


@router.post("", status_code=202)
@allow("push")
def create(body: schemas.ModelRequest, actor: ActorDep, made: ContextDep) -> schemas.Model:
    """Create a model from uploaded files; a worker checks them before patches are taken."""
    with made.database.write() as session:
        return views.model(*models.create(session, actor, body.name, [(file.path, file.sha256) for file in body.files]))


@router.get("")
@allow(None)
def listing(
    made: ContextDep,
    search: Words = None,
    author: Words = None,
    after: Words = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.ModelPage:
    """List models by name."""
    with made.database.read() as session:
        found, cursor = models.listing(session, search, author, after, limit)
        return schemas.ModelPage(items=[views.model(model, card=False) for model in found], next=cursor)


@router.get("/{namespace}/{name}")
@allow(None)
def show(name: ModelName, made: ContextDep) -> schemas.Model:
    """Show a model."""
    with made.database.read() as session:
        model = models.find(session, name)
        return views.model(model, models.import_job(session, model))


@router.get("/{namespace}/{name}/revisions/{ref}")
@allow(None)
def revision(name: ModelName, ref: Ref, made: ContextDep) -> schemas.Revision:
    """Show what a reference stands for: `base`, or a composed recipe by digest or unique prefix."""
    with made.database.read() as session:
        return views.revision(session, *compositions.resolve(session, name, ref))


@router.head("/{namespace}/{name}/revisions/{ref}/files/{path:path}", include_in_schema=False)
@router.get("/{namespace}/{name}/revisions/{ref}/files/{path:path}", response_class=Response)
@allow(None)
def file(name: ModelName, ref: Ref, path: FilePath, request: Request, made: ContextDep) -> Response:
    """Download a file of a revision."""
    with made.database.read() as session:
        _, found = compositions.resolve(session, name, ref)
        blob = compositions.find_file(found, path)
    return serve(request, made.store, blob.sha256, blob.size, path, immutable=ref == found.ref)

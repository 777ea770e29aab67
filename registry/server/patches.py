"""Routes of patches, and of what is composed from them."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server import views
from registry.server.deps import ActorDep, ContextDep, ModelName, Number, Route, allow
from registry.server.downloads import serve
from registry.server.errors import RESPONSES
from registry.services import compositions, models, patches

router = APIRouter(prefix="/api/v1/models/{namespace}/{name}", tags=["patches"], route_class=Route, responses=RESPONSES)
Words = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]


@router.post("/patches", status_code=202, responses={200: {"model": schemas.Patch, "description": "There already"}})
@allow("push")
def push(
    name: ModelName, body: schemas.PatchRequest, response: Response, actor: ActorDep, made: ContextDep
) -> schemas.Patch:
    """Contribute an uploaded patch file; a worker checks it before it can be composed."""
    given = patches.Contribution(body.sha256, body.title, body.message, body.task)
    with made.database.write() as session:
        revision, job = patches.push(session, actor, name, given)
        response.status_code = 202 if job else 200
        return views.patch(name, revision, job)


@router.get("/patches")
@allow(None)
def listing(
    name: ModelName,
    made: ContextDep,
    task: Words = None,
    author: Words = None,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.PatchPage:
    """List patches, newest first."""
    with made.database.read() as session:
        found, cursor = patches.listing(session, name, task, author, before, limit)
        return schemas.PatchPage(items=[views.patch(name, revision) for revision in found], next=cursor)


@router.get("/patches/{number}")
@allow(None)
def show(name: ModelName, number: Number, made: ContextDep) -> schemas.Patch:
    """Show a patch."""
    with made.database.read() as session:
        revision = patches.find(session, name, number)
        return views.patch(name, revision, patches.check_job(session, revision))


@router.get("/patches/{number}/tensors")
@allow(None)
def tensors(name: ModelName, number: Number, made: ContextDep) -> list[schemas.TensorStats]:
    """Show what a checked patch does to each tensor."""
    with made.database.read() as session:
        return [views.tensor(row) for row in patches.tensors(session, patches.find(session, name, number))]


@router.head("/patches/{number}/file", include_in_schema=False)
@router.get("/patches/{number}/file", response_class=Response)
@allow(None)
def file(name: ModelName, number: Number, request: Request, made: ContextDep) -> Response:
    """Download a checked patch file."""
    with made.database.read() as session:
        revision = patches.file(session, name, number)
    filename = f"{name.replace('/', '-')}-{number}.safetensors"
    return serve(request, made.store, revision.sha256, revision.size, filename, immutable=False)


@router.post("/compositions", status_code=202, responses={200: {"model": schemas.Composition, "description": "Ready"}})
@allow("push")
def compose(
    name: ModelName, body: schemas.RecipeRequest, response: Response, actor: ActorDep, made: ContextDep
) -> schemas.Composition:
    """Compose base + alpha * sum(weight * patch); a recipe that has been composed is not composed again."""
    items = [(item.number, item.weight) for item in body.patches]
    with made.database.write() as session:
        recipe, composition, job = compositions.request(session, actor, name, body.alpha, items)
        response.status_code = 200 if composition else 202
        return views.composition(session, models.find(session, name), recipe, composition, job)

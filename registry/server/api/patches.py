"""Routes of patches, and of the compositions and builds made from them."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.db.tables import Blob
from registry.errors import NotFound
from registry.server.edge.admission import ActorDep, Route, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import FilePath, ModelName, Number, PatchRef
from registry.server.errors import RESPONSES
from registry.server.sending.files import send_blob
from registry.server.views import patches as patch_views
from registry.server.views import recipes as recipe_views
from registry.services.catalog import beside, models, patches, revisions
from registry.services.composing import builds, compositions, snapshots

router = APIRouter(prefix="/api/v1/models/{namespace}/{name}", tags=["patches"], route_class=Route, responses=RESPONSES)
Words = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]
Fraction = Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False)]
EXISTS: dict[int | str, dict[str, object]] = {200: {"model": schemas.Patch, "description": "Pushed already"}}


@router.post("/patches", status_code=202, responses=EXISTS)
@allow("patch.push")
def push(
    name: ModelName, body: schemas.PatchRequest, response: Response, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Contribute an uploaded patch file; a worker checks it before it can be composed."""
    files = tuple((file.path, file.sha256) for file in body.files)
    contribution = revisions.Contribution(body.sha256, body.title, body.message, body.task, body.license, files)
    with ctx.writing(actor, body) as session:
        revision, job = revisions.push(session, actor, name, contribution, body.propose)
        ctx.admit(session, job)
        response.status_code = 202 if job else 200
        return patch_views.with_files(session, patch_views.patch(name, revision, job), revision)


@router.post("/patches/{number}/revisions", status_code=202, responses=EXISTS)
@allow("patch.revise")
def revise(
    name: ModelName,
    number: Number,
    body: schemas.RevisionRequest,
    response: Response,
    actor: ActorDep,
    ctx: ContextDep,
) -> schemas.Patch:
    """Add a revision to your patch; it needs checks and approvals of its own."""
    files = tuple((file.path, file.sha256) for file in body.files)
    contribution = revisions.Contribution(body.sha256, body.title, body.message, license=body.license, files=files)
    with ctx.writing(actor, body) as session:
        revision, job = revisions.revise(session, actor, name, number, contribution)
        ctx.admit(session, job)
        response.status_code = 202 if job else 200
        return patch_views.with_files(session, patch_views.patch(name, revision, job), revision)


@router.get("/patches/{number}/push")
@allow("model.read")
def pushed(name: ModelName, number: Number, ctx: ContextDep) -> schemas.Push:
    """Show what tools of the Hub have sent for a patch; it has no revision until that was compared with the base."""
    with ctx.database.read() as session:
        found = patch_views.push(session, models.find(session, name), number)
    if found is None:
        raise NotFound(f"Patch {name}#{number} was not pushed by tools of the Hub, or does not exist.")
    return found


@router.get("/patches")
@allow("model.read")
def listing(
    name: ModelName,
    ctx: ContextDep,
    task: Words = None,
    author: Words = None,
    state: Annotated[schemas.PatchState | None, Query()] = None,
    density_min: Fraction = None,
    density_max: Fraction = None,
    tensor: Words = None,
    before: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.PatchPage:
    """List patches, newest first."""
    with ctx.database.read() as session:
        return patch_views.listing(
            session,
            name,
            task=task,
            author=author,
            state=state,
            density_min=density_min,
            density_max=density_max,
            tensor=tensor,
            before=before,
            limit=limit,
        )


@router.get("/patches/{number}")
@allow("model.read")
def show(name: ModelName, patch: PatchRef, ctx: ContextDep) -> schemas.Patch:
    """Show a patch at its newest revision (`12`), or at one (`12.2`)."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        return patch_views.show(session, model, patches.find_in(session, model, *patch))


@router.get("/patches/{number}/tensors")
@allow("model.read")
def tensors(name: ModelName, patch: PatchRef, ctx: ContextDep) -> list[schemas.TensorStats]:
    """Show what a checked patch does to each tensor."""
    with ctx.database.read() as session:
        return patch_views.tensors(session, patches.find(session, name, *patch))


@router.head("/patches/{number}/file", include_in_schema=False)
@router.get("/patches/{number}/file", response_class=Response)
@allow("model.read")
def file(name: ModelName, patch: PatchRef, request: Request, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Download a checked patch file."""
    with ctx.database.read() as session:
        revision = patches.file(session, actor, name, *patch)
        public = models.find(session, name).visibility == "public" and revision.patch.quarantined_at is None
        blob = session.get_one(Blob, revision.sha256)
    filename = f"{name.replace('/', '-')}-{revision.patch.number}.{revision.number}.safetensors"
    cached = "public" if public else "private"
    return send_blob(request, ctx, blob, filename, immutable=False, cached=cached)


@router.head("/patches/{number}/files/{path:path}", include_in_schema=False)
@router.get("/patches/{number}/files/{path:path}", response_class=Response)
@allow("model.read")
def file_beside(
    name: ModelName, patch: PatchRef, path: FilePath, request: Request, actor: VisitorDep, ctx: ContextDep
) -> Response:
    """Download a file that came with a checked patch."""
    with ctx.database.read() as session:
        revision = patches.file(session, actor, name, *patch)
        public = models.find(session, name).visibility == "public" and revision.patch.quarantined_at is None
        blob = beside.find(session, revision, path)
    return send_blob(request, ctx, blob, path, immutable=False, cached="public" if public else "private")


@router.post("/compositions", status_code=202, responses={200: {"model": schemas.Composition, "description": "Ready"}})
@allow("recipe.compose")
def compose(
    name: ModelName, body: schemas.RecipeRequest, response: Response, actor: ActorDep, ctx: ContextDep
) -> schemas.Composition:
    """Compose patches onto the base, unless the recipe has been composed already."""
    with ctx.writing(actor, body) as session:
        recipe, composition, job = compositions.request(session, actor, name, recipe_views.mix(body))
        ctx.admit(session, job)
        response.status_code = 200 if composition else 202
        return recipe_views.composition(session, models.find(session, name), recipe, composition, job, body.alpha)


@router.delete("/compositions/{recipe}", status_code=204)
@allow("recipe.delete")
def delete_composition(name: ModelName, recipe: schemas.Hex256, actor: ActorDep, ctx: ContextDep) -> None:
    """Delete the files of a composition that you asked for or, as a maintainer, of any that no release or job holds."""
    with ctx.database.write() as session:
        compositions.delete(session, actor, name, recipe)


@router.get("/recipes/{recipe}/builds")
@allow("model.read")
def list_builds(name: ModelName, recipe: schemas.Hex256, ctx: ContextDep) -> list[schemas.Build]:
    """List who composed a recipe, and with which result."""
    with ctx.database.read() as session:
        return recipe_views.build_list(session, models.find(session, name), recipe)


@router.post("/builds", status_code=201)
@allow("build.report")
def report_build(name: ModelName, body: schemas.BuildRequest, actor: ActorDep, ctx: ContextDep) -> schemas.Build:
    """Report that you composed a recipe yourself; builds that agree make its release publishable."""
    with ctx.writing(actor, body) as session:
        model = models.ready(session, name, lock=True)
        composition = snapshots.find_composition(session, model, body.recipe)
        row = builds.attest(session, actor, model, composition.recipe_digest, body.weights_digest, body.device)
        return recipe_views.build(row)

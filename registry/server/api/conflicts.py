"""Routes of conflict analysis, and of recipe previews."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import StringConstraints

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import PATCH, FirstPatch, ModelName, PatchRef, SecondPatch, parse_patch
from registry.server.errors import RESPONSES
from registry.server.views import conflicts as conflict_views
from registry.server.views import recipes as recipe_views
from registry.services.catalog import models, patches
from registry.services.composing import conflicts

router = APIRouter(
    prefix="/api/v1/models/{namespace}/{name}", tags=["conflicts"], route_class=Route, responses=RESPONSES
)
KNOWN: dict[int | str, dict[str, object]] = {200: {"model": schemas.Conflicts, "description": "All pairs are known"}}


@router.post("/conflicts", status_code=202, responses=KNOWN)
@allow("conflict.ask")
def ask(
    name: ModelName, body: schemas.ConflictRequest, response: Response, actor: ActorDep, ctx: ContextDep
) -> schemas.Conflicts:
    """Have the conflicts of patches computed, each with each; known pairs are not computed again."""
    with ctx.writing(actor, body) as session:
        model = models.ready(session, name, lock=True)
        refs = [(patch.number, patch.revision) for patch in body.patches]
        rows, source = conflicts.choose(session, actor, model, refs)
        job = conflicts.ask(session, actor, model, rows)
        ctx.admit(session, job)
        response.status_code = 202 if job else 200
        return conflict_views.known_conflicts(session, model, rows, source)


@router.get("/conflicts")
@allow("model.read")
def show(
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    patch: Annotated[list[Annotated[str, StringConstraints(pattern=PATCH)]], Query(max_length=64)] = [],  # noqa: B006
) -> schemas.Conflicts:
    """Show the known conflicts among patches (`3` or `7.2`), or among those of the newest release."""
    with ctx.database.read() as session:
        model = models.ready(session, name)
        rows, source = conflict_views.choose(session, actor, model, [parse_patch(text) for text in patch])
        return conflict_views.known_conflicts(session, model, rows, source)


@router.get("/conflicts/{first}/{second}")
@allow("model.read")
def show_pair(
    name: ModelName, first: FirstPatch, second: SecondPatch, actor: VisitorDep, ctx: ContextDep
) -> schemas.ConflictPair:
    """Show the conflicts of two patches, tensor by tensor, once they have been computed."""
    with ctx.database.read() as session:
        return conflict_views.show_pair(session, actor, models.ready(session, name), first, second)


@router.get("/patches/{number}/conflicts")
@allow("model.read")
def of_patch(
    name: ModelName,
    patch: PatchRef,
    actor: VisitorDep,
    ctx: ContextDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> list[schemas.ConflictPair]:
    """List the known conflicts of a patch with others of its model, the newest patches first."""
    with ctx.database.read() as session:
        model = models.ready(session, name)
        return conflict_views.pairs_of_patch(session, actor, model, patches.find_in(session, model, *patch), limit)


@router.post("/preview")
@allow("model.read")
def preview(name: ModelName, body: schemas.RecipeRequest, actor: VisitorDep, ctx: ContextDep) -> schemas.Preview:
    """Preview a recipe: its digest, warnings about its patches, and their conflicts; nothing is written."""
    with ctx.database.read() as session:
        return recipe_views.preview(session, actor, name, body)

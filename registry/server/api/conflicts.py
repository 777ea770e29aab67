"""Routes of where patches meet, and of what a recipe would be."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import StringConstraints

from registry import schemas
from registry.server.edge.deps import ActorDep, ContextDep, ModelName, PatchRef, Route, VisitorDep, allow, get_patch
from registry.server.errors import RESPONSES
from registry.server.views import conflicts as conflict_views
from registry.services.catalog import models, patches
from registry.services.composing import conflicts, previews
from registry.services.composing.compositions import Ingredient

router = APIRouter(
    prefix="/api/v1/models/{namespace}/{name}", tags=["conflicts"], route_class=Route, responses=RESPONSES
)
PATCH = r"^[0-9]{1,9}(\.[0-9]{1,9})?$"
KNOWN: dict[int | str, dict[str, object]] = {200: {"model": schemas.Conflicts, "description": "All is known"}}


def get_first(first: Annotated[str, Path(pattern=PATCH)]) -> tuple[int, int | None]:
    """Return number and revision of a pair's first patch from the path."""
    return get_patch(first)


def get_second(second: Annotated[str, Path(pattern=PATCH)]) -> tuple[int, int | None]:
    """Return number and revision of a pair's second patch from the path."""
    return get_patch(second)


@router.post("/conflicts", status_code=202, responses=KNOWN)
@allow("conflict.ask")
def ask(
    name: ModelName, body: schemas.ConflictRequest, response: Response, actor: ActorDep, ctx: ContextDep
) -> schemas.Conflicts:
    """Have patches compared, each with each; what is known is not computed again."""
    with ctx.database.write() as session:
        model = models.ready(session, name, lock=True)
        found, source = conflicts.choose(
            session, actor, model, [(patch.number, patch.revision) for patch in body.patches]
        )
        job = conflicts.ask(session, actor, model, found)
        response.status_code = 202 if job else 200
        return conflict_views.conflicts(conflicts.known_conflicts(session, model, found, source))


@router.get("/conflicts")
@allow("model.read")
def show(
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    patch: Annotated[list[Annotated[str, StringConstraints(pattern=PATCH)]], Query(max_length=64)] = [],  # noqa: B006
) -> schemas.Conflicts:
    """Show what is known of where patches meet: of these (`3`, or `7.2`), or of the newest release's."""
    with ctx.database.read() as session:
        model = models.ready(session, name)
        found, source = conflicts.choose(session, actor, model, [get_patch(text) for text in patch])
        return conflict_views.conflicts(conflicts.known_conflicts(session, model, found, source))


@router.get("/conflicts/{first}/{second}")
@allow("model.read")
def show_pair(
    name: ModelName,
    first: Annotated[tuple[int, int | None], Depends(get_first)],
    second: Annotated[tuple[int, int | None], Depends(get_second)],
    actor: VisitorDep,
    ctx: ContextDep,
) -> schemas.ConflictPair:
    """Show where two patches meet, tensor by tensor, once that has been computed."""
    with ctx.database.read() as session:
        return conflict_views.pair(*conflicts.pair(session, actor, models.ready(session, name), first, second))


@router.get("/patches/{number}/conflicts")
@allow("model.read")
def of_patch(
    name: ModelName,
    patch: PatchRef,
    actor: VisitorDep,
    ctx: ContextDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> list[schemas.ConflictPair]:
    """List what is known of where a patch meets others of its model, the newest first."""
    with ctx.database.read() as session:
        model = models.ready(session, name)
        mine = patches.find(session, name, *patch)
        found = conflicts.conflicts_of_patch(session, actor, model, mine, limit)
        return [conflict_views.pair(mine, other, sums) for other, sums in found]


@router.post("/preview")
@allow("model.read")
def preview(name: ModelName, body: schemas.RecipeRequest, actor: VisitorDep, ctx: ContextDep) -> schemas.Preview:
    """Say what a recipe would be: its digest, what to know of its patches, and where they meet. Nothing is written."""
    items = [Ingredient(item.number, item.weight, item.revision) for item in body.patches]
    with ctx.database.read() as session:
        return conflict_views.preview(
            previews.preview(session, actor, name, body.alpha, items, allow_yanked=body.allow_yanked)
        )

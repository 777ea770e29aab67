"""Pages of patches: the list of a model's, and one at a revision with all that was said and found of it."""

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field

from registry import schemas
from registry.server.api import conflicts, models, patches, reviews
from registry.server.edge.deps import ContextDep, ModelName, PatchRef, VisitorDep, allow
from registry.server.pages.comparing import layers, overlaps
from registry.server.pages.frame import permits, render
from registry.server.pages.frame.route import PageRoute

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
STATES = get_args(schemas.PatchState)
PAGE = 50
BARS, ROWS, SAID, MET = 40, 500, 200, 50  # bars and rows of tensors, things said, pairs: most that a page shows
Blank = BeforeValidator(lambda given: None if given == "" else given)  # a field of a form that was left empty
State = Annotated[schemas.PatchState | None, Blank, Query()]
Words = Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")]
Percent = Annotated[Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None, Blank, Query()]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Said = tuple[Literal["revision", "review", "comment"], schemas.Patch | schemas.Review | schemas.Comment]


@router.get("/patches")
@allow("model.read")
def listing(
    request: Request,
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    state: State = None,
    task: Words = "",
    author: Words = "",
    tensor: Words = "",
    density_from: Percent = None,
    density_to: Percent = None,
    before: Before = None,
) -> Response:
    """Show a model's patches, newest first, and find them."""
    page = patches.listing(
        name,
        ctx,
        task=task.strip() or None,
        author=author.strip() or None,
        state=state,
        density_min=None if density_from is None else density_from / 100,
        density_max=None if density_to is None else density_to / 100,
        tensor=tensor.strip() or None,
        before=before,
        limit=PAGE,
    )
    given = {"task": task, "author": author, "tensor": tensor}
    asked = {"state": state, **given, "density_from": density_from, "density_to": density_to}
    following = render.query(**asked, before=page.next) if page.next else ""
    shown = models.show(name, actor, ctx)
    return render.page(
        request, "patches.html", model=shown, page=page, asked=asked, before=before, next=following, states=STATES
    )


@router.get("/patches/{number}")
@allow("model.read")
def patch(
    request: Request, name: ModelName, patch: PatchRef, actor: VisitorDep, ctx: ContextDep, reported: bool = False
) -> Response:
    """Show a patch at a revision: what it does, what was said and found of it, and what can be done with it."""
    model, told = models.show(name, actor, ctx), reviews.discussion(name, patch, ctx)
    checked = told.patch.check == "checked"
    may = permits.permitted(actor, model, told.patch.author)
    return render.page(
        request,
        "patch.html",
        model=model,
        patch=told.patch,
        told=told,
        thread=thread(told),
        tensors=patches.tensors(name, patch, ctx) if checked else [],
        met=conflicts.of_patch(name, patch, actor, ctx, MET) if checked else [],
        overlaps=overlaps,
        energy=energy,
        densities=densities,
        most=ROWS,
        may=may,
        steps=permits.steps(actor, told.patch, may),
        reported=reported,
    )


@router.get("/patches/{number}/file")
@allow("model.read")
def file(request: Request, name: ModelName, patch: PatchRef, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Download a checked patch file, for whoever has signed in in a browser."""
    return patches.file(name, patch, request, actor, ctx)


def thread(told: schemas.Discussion) -> list[Said]:
    """Return what was pushed and said of a patch in the order of time; the newest, where it is much."""
    said: list[Said] = [("revision", row) for row in told.revisions]
    said += [("review", row) for row in told.reviews]
    said += [("comment", row) for row in told.comments]
    return sorted(said, key=lambda found: found[1].created_at)[-SAID:]


def energy(tensors: Sequence[schemas.TensorStats]) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Return how much of the whole change is in which layer and projection, in percent of its sum of squares."""
    whole = sum(found.l2**2 for found in tensors)
    return layers.grid({found.name: 100 * found.l2**2 / whole for found in tensors} if whole else {})


def densities(tensors: Sequence[schemas.TensorStats]) -> list[tuple[str, float | None]]:
    """Return the densest tensors, and how much of each the patch changes, in percent."""
    found = sorted(tensors, key=lambda tensor: (-tensor.density, tensor.name))[:BARS]
    return [(tensor.name, 100 * tensor.density) for tensor in found]

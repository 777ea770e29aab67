"""Pages of where patches meet: two, tensor by tensor, and several, each with each; and what has it computed."""

import uuid
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import StringConstraints

from registry import schemas
from registry.server.api import conflicts, jobs, models, patches
from registry.server.api.conflicts import PATCH, get_first, get_second
from registry.server.edge.deps import ActorDep, Context, ContextDep, ModelName, PatchRef, VisitorDep, allow
from registry.server.pages.comparing import overlaps
from registry.server.pages.frame import forms, permits, render
from registry.server.pages.frame.drafts import reference
from registry.server.pages.frame.route import PageRoute, redirect
from registry.services.catalog import models as model_service
from registry.services.composing import conflicts as conflict_service
from registry.services.people.actors import Actor

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
CHOICES = 60  # patches that can be ticked, beside those that are
Chosen = Annotated[list[Annotated[str, StringConstraints(pattern=PATCH)]], Query(max_length=conflict_service.MOST)]
Ref = tuple[int, int | None]
MeasureName = Literal["sign", "overlap", "cosine", "cancellation"]


@router.get("/patches/{first}/compare/{second}")
@allow("model.read")
def compare(
    request: Request,
    name: ModelName,
    first: Annotated[Ref, Depends(get_first)],
    second: Annotated[Ref, Depends(get_second)],
    actor: VisitorDep,
    ctx: ContextDep,
    measure: MeasureName = "sign",
    job: uuid.UUID | None = None,
) -> Response:
    """Show where two patches meet, or let it be computed."""
    model = models.show(name, actor, ctx)
    found = conflicts.show(name, actor, ctx, [reference(*first), reference(*second)])
    return render.page(
        request,
        "comparison.html",
        model=model,
        found=found,
        pair=conflicts.show_pair(name, first, second, actor, ctx) if found.pairs else None,
        job=found.job or requested_job(job, actor, ctx),
        measure=measure,
        overlaps=overlaps,
        may=permits.permitted(actor, model),
    )


@router.get("/conflicts")
@allow("model.read")
def several(
    request: Request,
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    patch: Chosen = [],  # noqa: B006
    measure: MeasureName = "sign",
    job: uuid.UUID | None = None,
) -> Response:
    """Show where several patches meet, each with each: those of the newest release, unless some are chosen."""
    model = models.show(name, actor, ctx)
    found = conflicts.show(name, actor, ctx, patch)
    with ctx.database.read() as session:
        row = model_service.find(session, name)
        rows = conflict_service.find(session, actor, row, [(each.number, each.revision) for each in found.patches])
        squares = conflict_service.squares(session, rows)
    refs = [overlaps.ref(each) for each in found.patches]
    return render.page(
        request,
        "conflicts.html",
        model=model,
        found=found,
        refs=refs,
        names=[overlaps.label(each) for each in found.patches],
        cells=overlaps.matrix(overlaps.MEASURES[measure], found),
        links=[f"/{name}/patches/{ref}" for ref in refs],
        pair_links=[
            [None if ref == other else f"/{name}/patches/{ref}/compare/{other}" for other in refs] for ref in refs
        ],
        squares=squares,
        choices=choices(name, found, ctx),
        job=found.job or requested_job(job, actor, ctx),
        measure=measure,
        overlaps=overlaps,
        may=permits.permitted(actor, model),
    )


@router.post("/conflicts")
@allow("conflict.ask")
def ask(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have patches compared."""
    chosen = [named(text) for text in forms.fields(request).get("patch", [])]
    return compared(request, name, chosen, actor, ctx)


@router.post("/patches/{number}/conflicts")
@allow("conflict.ask")
def ask_release(request: Request, name: ModelName, patch: PatchRef, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have a patch compared with those of the newest release, or with the newest accepted ones."""
    others = [found for found in conflicts.show(name, actor, ctx).patches if found.number != patch[0]]
    chosen = [named(reference(*patch)), *(named(overlaps.ref(found)) for found in others)]
    return compared(request, name, chosen, actor, ctx)


def compared(request: Request, name: str, chosen: list[dict[str, int | None]], actor: Actor, ctx: Context) -> Response:
    """Ask for a comparison, and lead to where it will be."""
    body = forms.read(schemas.ConflictRequest, request, patches=chosen)
    found = conflicts.ask(name, body, Response(), actor, ctx)
    refs = [overlaps.ref(patch) for patch in found.patches]
    job = found.job.id if found.job else None
    if len(refs) == 2:
        return redirect(request, f"/{name}/patches/{refs[0]}/compare/{refs[1]}{render.query(job=job)}")
    return redirect(request, f"/{name}/conflicts{render.query(patch=refs, job=job)}")


def choices(name: str, found: schemas.Conflicts, ctx: Context) -> list[tuple[str, str, str, str, bool]]:
    """Return the patches that can be ticked: those that are, then accepted ones, then others, the newest first.

    Each is what a form sends, what people call it, its title, its state, and whether it is ticked.
    """
    listed = [
        *patches.listing(name, ctx, state="accepted", limit=CHOICES).items,
        *patches.listing(name, ctx, limit=CHOICES).items,
    ]
    others = [
        schemas.PatchName.model_validate(patch)
        for patch in listed
        if patch.check == "checked" and not patch.quarantined
    ]
    numbers = {patch.number for patch in found.patches}
    shown = {overlaps.ref(patch): (patch, True) for patch in found.patches}
    shown |= {overlaps.ref(patch): (patch, False) for patch in others if patch.number not in numbers}
    return [
        (ref, overlaps.label(patch), patch.title, patch.state, ticked)
        for ref, (patch, ticked) in list(shown.items())[: CHOICES + len(found.patches)]
    ]


def requested_job(job: uuid.UUID | None, actor: Actor | None, ctx: Context) -> schemas.Job | None:
    """Return the job that somebody has been waiting for, so that a page can say how it has ended."""
    return jobs.job(job, actor, ctx) if job else None


def named(text: str) -> dict[str, int | None]:
    """Return a patch that a form names, as the API takes it."""
    first, _, second = text.partition(".")
    return {"number": first, "revision": second or None}  # type: ignore[dict-item]  # pydantic reads and bounds them

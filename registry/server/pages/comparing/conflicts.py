"""Pages of conflict analysis: two patches tensor by tensor, several patches each with each, and the form that asks."""

import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import StringConstraints
from sqlalchemy.orm import Session

from registry import schemas
from registry.server.api import conflicts as conflict_routes
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import Context, ContextDep
from registry.server.edge.paths import PATCH, FirstPatch, ModelName, PatchRef, SecondPatch, parse_patch
from registry.server.pages.comparing import conflict_metrics, conflict_summary
from registry.server.pages.comparing.conflict_metrics import METRICS
from registry.server.pages.comparing.conflict_summary import label, ref
from registry.server.pages.frame import forms, permits, render
from registry.server.pages.frame.drafts import reference
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import conflicts as conflict_views
from registry.server.views import jobs as job_views
from registry.server.views import models as model_views
from registry.server.views import patches as patch_views
from registry.services.people.actors import Actor

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
CHOICES = 60  # patches that can be ticked, beside those that are
Chosen = Annotated[list[Annotated[str, StringConstraints(pattern=PATCH)]], Query(max_length=conflict_views.MOST)]
MetricName = Annotated[Literal["sign", "overlap", "cosine", "cancellation"], Query(alias="measure")]


@router.get("/patches/{first}/compare/{second}")
@allow("model.read")
def show_pair(
    request: Request,
    name: ModelName,
    first: FirstPatch,
    second: SecondPatch,
    actor: VisitorDep,
    ctx: ContextDep,
    metric: MetricName = "sign",
    job: uuid.UUID | None = None,
) -> Response:
    """Show the conflicts of two patches, or the form that has them computed."""
    with ctx.database.read() as session:
        row = model_views.find_ready(session, name)
        rows, _ = conflict_views.choose(session, actor, row, [first, second])
        known = conflict_views.known_conflicts(session, row, rows)
        pair = conflict_views.show_pair(session, actor, row, first, second) if known.pairs else None
        values = shared_values(session, actor, model_views.show(session, actor, row), known, job)
    return render.page(request, "conflict_pair.html", pair=pair, metric=metric, **values)


@router.get("/conflicts")
@allow("model.read")
def show(
    request: Request,
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    patch: Chosen = [],  # noqa: B006
    metric: MetricName = "sign",
    job: uuid.UUID | None = None,
) -> Response:
    """Show the conflicts of several patches, each with each: those of the newest release unless some are chosen."""
    with ctx.database.read() as session:
        row = model_views.find_ready(session, name)
        rows, source = conflict_views.choose(session, actor, row, [parse_patch(text) for text in patch])
        known = conflict_views.known_conflicts(session, row, rows, source)
        squares, listed = conflict_views.squares(session, rows), choices(session, name, known)
        values = shared_values(session, actor, model_views.show(session, actor, row), known, job)
    refs = [ref(each) for each in known.patches]
    return render.page(
        request,
        "conflicts.html",
        refs=refs,
        names=[label(each) for each in known.patches],
        cells=conflict_metrics.matrix(METRICS[metric], known),
        links=[f"/{name}/patches/{one}" for one in refs],
        pair_links=[[None if one == two else f"/{name}/patches/{one}/compare/{two}" for two in refs] for one in refs],
        squares=squares,
        choices=listed,
        metric=metric,
        **values,
    )


def shared_values(
    session: Session, actor: Actor | None, model: schemas.Model, known: schemas.Conflicts, job: uuid.UUID | None
) -> dict[str, Any]:
    """Return what both pages of conflicts show; `job` is one that the visitor has been waiting for."""
    return {
        "model": model,
        "known": known,
        "job": known.job or (job_views.show(session, actor, job) if job else None),
        "metrics": conflict_metrics,
        "summary": conflict_summary,
        "may": permits.permitted(actor, model),
    }


def choices(session: Session, name: str, known: schemas.Conflicts) -> list[tuple[str, str, str, str, bool]]:
    """Return the patches that can be ticked: those that are, then accepted ones, then others, the newest first.

    Each is what a form sends, its label, its title, its state, and whether it is ticked.
    """
    listed = [
        *patch_views.listing(session, name, state="accepted", limit=CHOICES).items,
        *patch_views.listing(session, name, limit=CHOICES).items,
    ]
    others = [
        schemas.PatchName.model_validate(patch)
        for patch in listed
        if patch.check == "checked" and not patch.quarantined
    ]
    numbers = {patch.number for patch in known.patches}
    shown = {ref(patch): (patch, True) for patch in known.patches}
    shown |= {ref(patch): (patch, False) for patch in others if patch.number not in numbers}
    return [
        (one, label(patch), patch.title, patch.state, ticked)
        for one, (patch, ticked) in list(shown.items())[: CHOICES + len(known.patches)]
    ]


@router.post("/conflicts")
@allow("conflict.ask")
def ask(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have the conflicts of patches computed."""
    return request_analysis(request, name, forms.fields(request).get("patch", []), actor, ctx)


@router.post("/patches/{number}/conflicts")
@allow("conflict.ask")
def ask_for_patch(request: Request, name: ModelName, patch: PatchRef, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have the conflicts of a patch with those of the newest release, or with the newest accepted ones, computed."""
    others = [ref(each) for each in conflict_routes.show(name, actor, ctx).patches if each.number != patch[0]]
    return request_analysis(request, name, [reference(*patch), *others], actor, ctx)


def request_analysis(request: Request, name: str, refs: list[str], actor: Actor, ctx: Context) -> Response:
    """Have conflicts computed, and lead to the page that will show them."""
    body = forms.read(schemas.ConflictRequest, request, patches=[patch_fields(text) for text in refs])
    known = conflict_routes.ask(name, body, Response(), actor, ctx)
    refs = [ref(patch) for patch in known.patches]
    job = known.job.id if known.job else None
    if len(refs) == 2:
        return redirect(request, f"/{name}/patches/{refs[0]}/compare/{refs[1]}{render.query(job=job)}")
    return redirect(request, f"/{name}/conflicts{render.query(patch=refs, job=job)}")


def patch_fields(text: str) -> dict[str, str | None]:
    """Return a patch that a form names as fields of a body, which checks them."""
    number, _, revision = text.partition(".")
    return {"number": number, "revision": revision or None}

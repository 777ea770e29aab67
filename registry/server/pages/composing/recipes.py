"""Recipes: what was asked to be composed, how far it is, and what came of it."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from registry import schemas
from registry.errors import BreadcrumbError
from registry.server.api import conflicts, models, releases
from registry.server.edge.deps import ActorDep, Context, ContextDep, ModelName, VisitorDep, allow
from registry.server.pages.comparing import collisions
from registry.server.pages.frame import drafts, forms, render
from registry.server.pages.frame.cookies import csrf
from registry.server.pages.frame.drafts import Draft
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.services.catalog import models as model_service
from registry.services.composing import compositions
from registry.services.people.actors import Actor
from registry.services.queue import jobs

router = APIRouter(prefix="/{namespace:space}/{name}/recipes", route_class=PageRoute, include_in_schema=False)
Digits = Annotated[str, Path(pattern=r"^[0-9a-f]{8,64}$")]
WHOLE = 64


@router.get("/{recipe}")
@allow("model.read")
def recipe(request: Request, name: ModelName, recipe: Digits, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Show a recipe: its result or, until there is one, the job that makes it."""
    if len(recipe) < WHOLE:
        return redirect(request, f"/{name}/recipes/{models.snapshot(name, recipe, actor, ctx).ref}")
    model = models.show(name, actor, ctx)
    with ctx.database.read() as session:
        row = model_service.find(session, name)
        found, composition, job = compositions.requested(session, row, recipe)
        shown = model_views.composition(session, row, found, composition, None)
        progress = model_views.job(job, jobs.jobs_ahead(session, job)) if job else None
        cancellable = job is not None and jobs.cancellable(actor, job)
    draft = draft_of(shown.recipe)
    preview = preview_of(name, draft, actor, ctx)
    here = f"/{name}/recipes/{recipe}"
    return render.page(
        request,
        "recipe.html",
        model=model,
        composition=shown,
        job=progress,
        cancellable=cancellable,
        revision=models.snapshot(name, recipe, actor, ctx) if composition else None,
        draft=draft,
        preview=preview,
        collisions=collisions.of(preview.conflicts) if preview else None,
        here=here,
        again=here,
        token=csrf(request) if actor else None,
    )


@router.post("/{recipe}/release")
@allow("release.cut")
def cut(request: Request, name: ModelName, recipe: schemas.Hex256, actor: ActorDep, ctx: ContextDep) -> Response:
    """Cut a release from a composed recipe."""
    body = forms.read(schemas.ReleaseRequest, request, from_ref=recipe)
    release = releases.cut(name, body, Response(), actor, ctx)
    return redirect(request, f"/{name}/releases/{release.version}")


def draft_of(recipe: schemas.Recipe) -> Draft | None:
    """Return what the builder would say of a recipe; None where a patch is not listed any more, or there are many."""
    if any(not item.number for item in recipe.patches):
        return None
    with suppress(BreadcrumbError):
        return drafts.draft_of(recipe)
    return None


def preview_of(name: str, draft: Draft | None, actor: Actor | None, ctx: Context) -> schemas.Preview | None:
    """Return what is known of the patches of a recipe, if they may still be composed."""
    if draft is None or not draft.ticked:
        return None
    with suppress(BreadcrumbError):
        return conflicts.preview(name, draft.request(), actor, ctx)
    return None

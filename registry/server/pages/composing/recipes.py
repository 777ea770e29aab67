"""The page of a recipe that was asked for: its patches, and its result or the job that composes it."""

from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from sqlalchemy.orm import Session

from registry import schemas
from registry.errors import BreadcrumbError
from registry.server.api import patches, releases
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages.comparing import conflict_summary
from registry.server.pages.frame import drafts, forms, permits, render
from registry.server.pages.frame.cookies import csrf
from registry.server.pages.frame.drafts import Draft
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import recipes as recipe_views
from registry.server.views import releases as release_views
from registry.server.views import reviews as review_views
from registry.server.views.reviews import Subject
from registry.services.people.actors import Actor

router = APIRouter(prefix="/{namespace:space}/{name}/recipes", route_class=PageRoute, include_in_schema=False)
Digits = Annotated[str, Path(pattern=r"^[0-9a-f]{8,64}$")]


@router.get("/{recipe}")
@allow("model.read")
def recipe(request: Request, name: ModelName, recipe: Digits, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Show a recipe with its result or, until there is one, the job that composes it."""
    with ctx.database.read() as session:
        if len(recipe) < recipe_views.WHOLE:
            return redirect(request, f"/{name}/recipes/{recipe_views.show_snapshot(session, actor, name, recipe).ref}")
        row = model_views.find(session, name)
        model, progress = model_views.show(session, actor, row), recipe_views.progress(session, actor, row, recipe)
        composed = progress.composition.weights_digest is not None
        snapshot = recipe_views.show_snapshot(session, actor, name, recipe) if composed else None
        draft = draft_of(progress.composition.recipe)
        preview = preview_of(session, actor, name, draft)
        evaluations = review_views.evaluations_of(session, row, Subject(recipe=recipe))
        may = permits.permitted(actor, model)
        offers = release_views.offers_in(session, row, progress.composition.recipe) if "release.cut" in may else []
    here = f"/{name}/recipes/{recipe}"
    return render.page(
        request,
        "recipe.html",
        model=model,
        may=may,
        composition=progress.composition,
        job=progress.job,
        cancellable=progress.cancellable,
        deletable=progress.deletable and "recipe.delete" in may,
        kept=progress.kept,
        revision=snapshot,
        draft=draft,
        preview=preview,
        evaluations=evaluations,
        offers=offers,
        conflicts=conflict_summary.summarise(preview.conflicts) if preview else None,
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


@router.post("/{recipe}/delete")
@allow("recipe.delete")
def delete(request: Request, name: ModelName, recipe: schemas.Hex256, actor: ActorDep, ctx: ContextDep) -> Response:
    """Delete the files of a composition."""
    patches.delete_composition(name, recipe, actor, ctx)
    return redirect(request, f"/{name}")


def draft_of(recipe: schemas.Recipe) -> Draft | None:
    """Return a recipe as a draft; None if a patch is no longer listed, or there are too many patches for a draft."""
    if any(not item.number for item in recipe.patches):
        return None
    with suppress(BreadcrumbError):
        return drafts.draft_of(recipe)
    return None


def preview_of(session: Session, actor: Actor | None, name: str, draft: Draft | None) -> schemas.Preview | None:
    """Return the preview of a recipe, if its patches may still be composed."""
    if draft is None or not draft.ticked:
        return None
    with suppress(BreadcrumbError):
        return recipe_views.preview(session, actor, name, draft.request())
    return None

"""The recipe builder: tick patches, weigh them, see what would come of it, and have it composed."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.errors import BreadcrumbError, RevisionNotFound
from registry.server.api import conflicts, models, patches
from registry.server.edge.deps import ActorDep, Context, ContextDep, ModelName, VisitorDep, allow
from registry.server.pages.comparing import collisions
from registry.server.pages.frame import drafts, forms, render
from registry.server.pages.frame.cookies import csrf
from registry.server.pages.frame.drafts import Draft, Fields
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import patches as patch_views
from registry.services.catalog import choices
from registry.services.catalog import models as model_service
from registry.services.composing import compositions, snapshots
from registry.services.people.actors import Actor

router = APIRouter(prefix="/{namespace:space}/{name}/recipes", route_class=PageRoute, include_in_schema=False)
Words = Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")]
Cursor = Annotated[str, Query(max_length=20)]
Start = Annotated[str, Query(alias="from", max_length=100, pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]*)?$")]
PAGE = 20
WHOLE = 64  # digits of a recipe


@dataclass(frozen=True)
class Shown:
    """What a draft would come to, or the sentence that says why it cannot be composed."""

    draft: Draft
    ticked: list[schemas.Patch]
    found: schemas.Preview | None = None
    refusal: str | None = None


@router.get("/new")
@allow("model.read")
def new(
    request: Request,
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    q: Words = "",
    before: Cursor = "",
    start: Start = "",
) -> Response:
    """Show the builder, with what the address ticks."""
    model = models.show(name, actor, ctx)
    shown = look(name, query_fields(request), actor, ctx, start)
    with ctx.database.read() as session:
        row, ticked = model_service.find(session, name), [patch.number for patch in shown.ticked]
        words = q.strip()
        found, after = choices.page(session, row, words=words, without=ticked, before=before or None, limit=PAGE)
        more = [patch_views.patch(name, revision) for revision in found]
    values = preview_values(request, model, shown)
    return render.page(request, "recipe_new.html", more=more, next=after, q=q, before=before, **values)


@router.get("/preview")
@allow("model.read")
def preview(request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Show what the builder's form would come to, as a part of its page."""
    shown = look(name, query_fields(request), actor, ctx)
    return render.page(request, "recipe_preview.html", **preview_values(request, models.show(name, actor, ctx), shown))


@router.post("")
@allow("recipe.compose")
def compose(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have the builder's recipe composed."""
    body = drafts.read(forms.fields(request)).request()
    found = patches.compose(name, body, Response(), actor, ctx)
    return redirect(request, f"/{name}/recipes/{found.recipe.digest}")


@router.post("/conflicts")
@allow("conflict.ask")
def ask(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have the pairs of the builder's patches compared, and show the preview again, with the job."""
    draft = drafts.read(forms.fields(request))
    named = [{"number": number, "revision": revision} for number, revision in draft.ticked.items()]
    conflicts.ask(name, schemas.ConflictRequest.model_validate({"patches": named}), Response(), actor, ctx)
    if "hx-request" not in request.headers:
        return redirect(request, f"/{name}/recipes/new{render.query(**draft.query())}")
    shown = look(name, forms.fields(request), actor, ctx)
    return render.page(request, "recipe_preview.html", **preview_values(request, models.show(name, actor, ctx), shown))


def query_fields(request: Request) -> Fields:
    """Return the fields of a form that was sent as the query of an address."""
    return {name: request.query_params.getlist(name) for name in request.query_params}


def look(name: str, fields: Fields, actor: Actor | None, ctx: Context, start: str = "") -> Shown:
    """Return what a form says, and what it would come to; nothing that it says is an error of the page."""
    draft, ticked = Draft(), list[schemas.Patch]()
    try:
        draft = drafts.read(fields)
        with ctx.database.read() as session:
            if start:
                draft = begun(name, start, draft, actor, ctx)
            row = model_service.find(session, name)
            ticked = [patch_views.patch(name, found) for found in choices.named(session, row, draft.ticked)]
        if len(ticked) < len(draft.ticked):
            there = {patch.number for patch in ticked}
            gone = next(number for number in draft.ticked if number not in there)
            raise RevisionNotFound(f"There is no patch {name}#{drafts.reference(gone, draft.ticked[gone])}.")
        if not ticked:
            return Shown(draft, ticked)
        return Shown(draft, ticked, conflicts.preview(name, draft.request(), actor, ctx))
    except BreadcrumbError as why:
        return Shown(draft, ticked, refusal=why.message)


def begun(name: str, start: str, draft: Draft, actor: Actor | None, ctx: Context) -> Draft:
    """Return the draft that begins with the recipe of a revision, composed or not; the draft itself goes before.

    Raises:
        RevisionNotFound, Forbidden, InvalidRequest: there is none, it is quarantined, or it has too many patches.
    """
    with ctx.database.read() as session:
        model = model_service.find(session, name)
        try:
            recipe = snapshots.find(session, actor, model, start).recipe
        except RevisionNotFound:
            if len(start) < WHOLE:
                raise
            recipe = compositions.requested(session, model, start)[0]
        return drafts.draft_of(model_views.recipe(session, model, recipe), draft) if recipe else draft


def preview_values(request: Request, model: schemas.Model, shown: Shown) -> dict[str, Any]:
    """Return what a preview is drawn with."""
    actor: Actor | None = request.state.actor
    query = render.query(**shown.draft.query())
    return {
        "model": model,
        "draft": shown.draft,
        "ticked": shown.ticked,
        "preview": shown.found,
        "refusal": shown.refusal,
        "collisions": collisions.of(shown.found.conflicts) if shown.found else None,
        "here": f"/{model.name}/recipes/new{query}",
        "again": f"/{model.name}/recipes/preview{query}",
        "most": drafts.MOST,
        "token": csrf(request) if actor else None,
    }

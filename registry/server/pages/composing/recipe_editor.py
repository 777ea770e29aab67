"""The recipe editor: tick patches, weigh them, preview the result, and have it composed."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy.orm import Session

from registry import schemas
from registry.errors import BreadcrumbError, RevisionNotFound
from registry.server.api import conflicts, patches
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.pages.comparing import conflict_summary
from registry.server.pages.frame import drafts, forms, render
from registry.server.pages.frame.cookies import csrf
from registry.server.pages.frame.drafts import Draft, Fields
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import recipes as recipe_views
from registry.services.people.actors import Actor

router = APIRouter(prefix="/{namespace:space}/{name}/recipes", route_class=PageRoute, include_in_schema=False)
Words = Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")]
Cursor = Annotated[str, Query(max_length=20)]
Start = Annotated[str, Query(alias="from", max_length=100, pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]*)?$")]
PAGE = 20


@dataclass(frozen=True)
class DraftPreview:
    """What a draft would give, or the message that says why it cannot be composed."""

    model: schemas.Model
    draft: Draft
    ticked: list[schemas.Patch]
    preview: schemas.Preview | None = None
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
    """Show the editor, with the patches that the address ticks."""
    with ctx.database.read() as session:
        shown = preview_draft(session, actor, name, query_fields(request), start)
        ticked = [patch.number for patch in shown.ticked]
        row = model_views.find(session, name)
        more, cursor = recipe_views.choice_page(
            session, row, words=q.strip(), without=ticked, before=before or None, limit=PAGE
        )
    values = preview_values(request, shown)
    return render.page(request, "recipe_new.html", more=more, next=cursor, q=q, before=before, **values)


@router.get("/preview")
@allow("model.read")
def preview(request: Request, name: ModelName, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Show what the editor's form would give, as a part of its page."""
    with ctx.database.read() as session:
        shown = preview_draft(session, actor, name, query_fields(request))
    return render.page(request, "recipe_preview.html", **preview_values(request, shown))


@router.post("")
@allow("recipe.compose")
def compose(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have the editor's recipe composed."""
    body = drafts.read(forms.fields(request)).request()
    composition = patches.compose(name, body, Response(), actor, ctx)
    return redirect(request, f"/{name}/recipes/{composition.recipe.digest}")


@router.post("/conflicts")
@allow("conflict.ask")
def ask(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Have the conflicts of the editor's patches computed, and show the preview again, with the job."""
    draft = drafts.read(forms.fields(request))
    named = [{"number": number, "revision": revision} for number, revision in draft.ticked.items()]
    conflicts.ask(name, schemas.ConflictRequest.model_validate({"patches": named}), Response(), actor, ctx)
    if "hx-request" not in request.headers:
        return redirect(request, f"/{name}/recipes/new{render.query(**draft.query())}")
    with ctx.database.read() as session:
        shown = preview_draft(session, actor, name, forms.fields(request))
    into = "#where" if forms.field(request, "into") == "#where" else "#preview"
    values = preview_values(request, shown, into)
    return render.page(request, "recipe_preview.html", **values)


def query_fields(request: Request) -> Fields:
    """Return the fields of a form that was sent as the query of an address."""
    return {name: request.query_params.getlist(name) for name in request.query_params}


def preview_draft(session: Session, actor: Actor | None, name: str, fields: Fields, start: str = "") -> DraftPreview:
    """Return the draft of a form, merged into the recipe of `start` if given, and its preview.

    A fault of the form is shown on the page, and is not an error of the page.
    """
    row = model_views.find(session, name)
    model, draft, ticked = model_views.show(session, actor, row), Draft(), list[schemas.Patch]()
    try:
        draft = drafts.read(fields)
        if start and (recipe := recipe_views.recipe_at(session, actor, row, start)):
            draft = drafts.draft_of(recipe, draft)
        ticked = recipe_views.named_patches(session, row, draft.ticked)
        if len(ticked) < len(draft.ticked):
            there = {patch.number for patch in ticked}
            gone = next(number for number in draft.ticked if number not in there)
            raise RevisionNotFound(f"There is no patch {name}#{drafts.reference(gone, draft.ticked[gone])}.")
        if not ticked:
            return DraftPreview(model, draft, ticked)
        return DraftPreview(model, draft, ticked, recipe_views.preview(session, actor, name, draft.request()))
    except BreadcrumbError as why:
        return DraftPreview(model, draft, ticked, refusal=why.message)


def preview_values(request: Request, shown: DraftPreview, into: str = "#preview") -> dict[str, Any]:
    """Return the values that a preview shows; `into` is the part of the page that it replaces when a job has ended."""
    actor: Actor | None = request.state.actor
    query = render.query(**shown.draft.query())
    return {
        "model": shown.model,
        "draft": shown.draft,
        "ticked": shown.ticked,
        "preview": shown.preview,
        "refusal": shown.refusal,
        "conflicts": conflict_summary.summarise(shown.preview.conflicts) if shown.preview else None,
        "here": f"/{shown.model.name}/recipes/new{query}",
        "again": f"/{shown.model.name}/recipes/preview{query}",
        "into": into,
        "most": drafts.MOST,
        "token": csrf(request) if actor else None,
    }

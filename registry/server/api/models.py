"""Routes of models, their members and cards, and the snapshots that can be pulled from them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from registry import schemas
from registry.schemas.contents import ModelOrder
from registry.server.edge.admission import ActorDep, Route, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import REF, FilePath, ModelName, Number, UserName, Word
from registry.server.errors import RESPONSES
from registry.server.sending.files import send
from registry.server.views import models as model_views
from registry.server.views import patches as patch_views
from registry.server.views import recipes as recipe_views
from registry.services.catalog import models
from registry.services.catalog.search import GREATEST, Filters
from registry.services.composing import snapshots
from registry.services.curation import cards
from registry.services.people import access

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=Route, responses=RESPONSES)
Ref = Annotated[str, Path(pattern=REF, examples=["base"])]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Words = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]
Weights = Annotated[int | None, Query(ge=0, le=GREATEST)]


@router.post("", status_code=202)
@allow("model.create")
def create(body: schemas.ModelRequest, actor: ActorDep, ctx: ContextDep) -> schemas.Model:
    """Create a model from uploaded files or from a base at a Hub; a worker checks it before patches are accepted."""
    files = [(file.path, file.sha256) for file in body.files]
    with ctx.writing(actor, body) as session:
        model, job = models.create(
            session,
            actor,
            body.name,
            files,
            source=body.source,
            by_reference=body.source is not None and body.by_reference,
            visibility=body.visibility,
            license=body.license,
        )
        ctx.admit(session, job)
        return model_views.model(model, job)


@router.get("")
@allow("server.read")
def listing(
    actor: VisitorDep,
    ctx: ContextDep,
    search: Words = None,
    author: Words = None,
    tag: Annotated[list[Word] | None, Query(max_length=20)] = None,
    parameters_min: Weights = None,
    parameters_max: Weights = None,
    sort: ModelOrder = "name",
    after: Words = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.ModelPage:
    """List models by name, or those with a base by downloads of thirty days or by time; with all of these tags."""
    wanted = Filters(search, author, tuple(tag or ()), parameters_min, parameters_max)
    with ctx.database.read() as session:
        return model_views.listing(session, actor, wanted, sort, after=after, limit=limit)


@router.get("/{namespace}/{name}")
@allow("model.read")
def show(name: ModelName, actor: VisitorDep, ctx: ContextDep) -> schemas.Model:
    """Show a model."""
    with ctx.database.read() as session:
        return model_views.show(session, actor, models.find(session, name))


@router.get("/{namespace}/{name}/architecture")
@allow("model.read")
def architecture(name: ModelName, ctx: ContextDep) -> schemas.Architecture:
    """Show what a model is built like, by its config.json and the headers of its weights."""
    with ctx.database.read() as session:
        return model_views.built_like(session, ctx.store, models.ready(session, name))


@router.patch("/{namespace}/{name}")
@allow("model.manage")
def update(name: ModelName, body: schemas.ModelUpdate, actor: ActorDep, ctx: ContextDep) -> schemas.Model:
    """Change a model's visibility, its licence, the requirements for accepting a patch, or how patches are made."""
    with ctx.writing(actor, body) as session:
        return model_views.show(session, actor, models.update(session, actor, name, body.model_dump(exclude_none=True)))


@router.post("/{namespace}/{name}/cards", status_code=201)
@allow("patch.push")
def propose_card(
    name: ModelName, body: schemas.CardRequest, actor: ActorDep, ctx: ContextDep, request: Request
) -> schemas.CardProposal:
    """Propose another card of a model or, as a maintainer, change it at once."""
    with ctx.writing(actor, body) as session:
        if body.accept:
            access.admit(session, actor, "card.change", request.path_params)
        row = cards.propose(session, actor, name, cards.NewCard(body.card, body.title, body.message))
        if body.accept:
            cards.accept(session, actor, ctx.store, name, row.patch.number)
        return patch_views.card_proposal(models.find(session, name), row)


@router.get("/{namespace}/{name}/cards")
@allow("model.read")
def list_cards(
    name: ModelName,
    ctx: ContextDep,
    state: schemas.PatchState | None = None,
    before: Before = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
) -> schemas.CardPage:
    """List the proposals of a model's card, newest first, at most 20 on a page."""
    with ctx.database.read() as session:
        return patch_views.card_page(session, models.find(session, name), state, before, limit)


@router.get("/{namespace}/{name}/cards/{number}")
@allow("model.read")
def show_card(name: ModelName, number: Number, ctx: ContextDep) -> schemas.CardProposal:
    """Show a proposed card, and how it differs from the model's."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        return patch_views.card_proposal(model, cards.find(session, model, number))


@router.put("/{namespace}/{name}/cards/{number}")
@allow("patch.revise")
def revise_card(
    name: ModelName, number: Number, body: schemas.CardRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.CardProposal:
    """Give your proposal another text."""
    with ctx.writing(actor, body) as session:
        row = cards.revise(session, actor, name, number, cards.NewCard(body.card, body.title, body.message))
        return patch_views.card_proposal(models.find(session, name), row)


@router.post("/{namespace}/{name}/cards/{number}/accept")
@allow("patch.accept")
def accept_card(
    name: ModelName, number: Number, body: schemas.CardDecision, actor: ActorDep, ctx: ContextDep
) -> schemas.CardProposal:
    """Make a proposed card that of the model."""
    with ctx.writing(actor, body) as session:
        row = cards.accept(session, actor, ctx.store, name, number, body.message, body.sha256)
        return patch_views.card_proposal(models.find(session, name), row)


@router.post("/{namespace}/{name}/cards/{number}/reject")
@allow("patch.reject")
def reject_card(
    name: ModelName, number: Number, body: schemas.ReasonNeeded, actor: ActorDep, ctx: ContextDep
) -> schemas.CardProposal:
    """Reject a proposed card."""
    with ctx.writing(actor, body) as session:
        row = cards.close(session, actor, name, number, "reject", body.message)
        return patch_views.card_proposal(models.find(session, name), row)


@router.post("/{namespace}/{name}/cards/{number}/withdraw")
@allow("patch.withdraw")
def withdraw_card(
    name: ModelName, number: Number, body: schemas.Reason, actor: ActorDep, ctx: ContextDep
) -> schemas.CardProposal:
    """Withdraw the card that you proposed."""
    with ctx.writing(actor, body) as session:
        row = cards.close(session, actor, name, number, "withdraw", body.message)
        return patch_views.card_proposal(models.find(session, name), row)


@router.get("/{namespace}/{name}/members")
@allow("model.read")
def members(name: ModelName, ctx: ContextDep) -> list[schemas.Member]:
    """List the members of a model and of its namespace, with their roles."""
    with ctx.database.read() as session:
        return model_views.members(session, models.find(session, name))


@router.put("/{namespace}/{name}/members/{user}", status_code=204)
@allow("model.manage")
def set_member(name: ModelName, user: UserName, body: schemas.MemberRequest, actor: ActorDep, ctx: ContextDep) -> None:
    """Give a user a role on a model."""
    with ctx.database.write() as session:
        models.set_member(session, actor, name, user, body.role)


@router.delete("/{namespace}/{name}/members/{user}", status_code=204)
@allow("model.manage")
def remove_member(name: ModelName, user: UserName, actor: ActorDep, ctx: ContextDep) -> None:
    """Remove a user's role on a model."""
    with ctx.database.write() as session:
        models.set_member(session, actor, name, user, None)


@router.get("/{namespace}/{name}/revisions/{ref}")
@allow("model.read")
def snapshot(name: ModelName, ref: Ref, actor: VisitorDep, ctx: ContextDep) -> schemas.Snapshot:
    """Show what a reference names: `main`, `base`, a version, a channel, or a recipe by 8 digits or more."""
    with ctx.database.read() as session:
        return recipe_views.show_snapshot(session, actor, name, ref)


@router.head("/{namespace}/{name}/revisions/{ref}/files/{path:path}", include_in_schema=False)
@router.get("/{namespace}/{name}/revisions/{ref}/files/{path:path}", response_class=Response)
@allow("model.read")
def file(name: ModelName, ref: Ref, path: FilePath, request: Request, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Download a file of a revision."""
    with ctx.database.read() as session:
        model, snapshot = snapshots.resolve(session, actor, name, ref)
    return send(request, ctx, model, snapshot, path, immutable=snapshot.fixed and ref == snapshot.ref)

"""Pages of a model's card: the form that changes it or proposes another, and what is proposed, with its decisions."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.api import models
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName, Number
from registry.server.pages.frame import forms, permits, render
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.views import models as model_views
from registry.server.views import patches as patch_views
from registry.services.people.actors import Actor

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
LINES, EARLIER = 2000, 20  # most that a page shows: of a diff, and earlier cards
KINDS = {"+": "added", "-": "removed", "@": "place"}


@router.get("/card")
@allow("patch.push")
def edit(
    request: Request,
    name: ModelName,
    actor: ActorDep,
    ctx: ContextDep,
    number: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> Response:
    """Show the card of a model, or one that is proposed, in a form; and the cards that were proposed before."""
    with ctx.database.read() as session:
        row = model_views.find_ready(session, name)
        shown = model_views.show(session, actor, row)
        card = patch_views.proposed_card(session, row, number) if number is not None else None
        earlier = patch_views.card_page(session, row, None, None, EARLIER).items
    may = permits.permitted(actor, shown)
    return render.page(request, "card_edit.html", model=shown, card=card, earlier=earlier, may=may)


@router.post("/card")
@allow("patch.push")
def propose(request: Request, name: ModelName, actor: ActorDep, ctx: ContextDep) -> Response:
    """Propose the card that was written or, as a maintainer, change it at once."""
    card = models.propose_card(name, read(request), actor, ctx, request)
    return redirect(request, f"/{name}" if card.state == "accepted" else f"/{name}/patches/{card.number}")


@router.post("/patches/{number}/card")
@allow("patch.revise")
def revise(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Give your proposal another text."""
    models.revise_card(name, number, read(request), actor, ctx)
    return redirect(request, f"/{name}/patches/{number}")


@router.post("/patches/{number}/card/accept")
@allow("patch.accept")
def accept(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Make the card that was shown that of the model."""
    models.accept_card(name, number, forms.read(schemas.CardDecision, request), actor, ctx)
    return redirect(request, f"/{name}")


@router.post("/patches/{number}/card/reject")
@allow("patch.reject")
def reject(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Reject a proposed card."""
    models.reject_card(name, number, forms.read(schemas.ReasonNeeded, request), actor, ctx)
    return redirect(request, f"/{name}/patches/{number}")


@router.post("/patches/{number}/card/withdraw")
@allow("patch.withdraw")
def withdraw(request: Request, name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> Response:
    """Withdraw the card that you proposed."""
    models.withdraw_card(name, number, forms.read(schemas.Reason, request), actor, ctx)
    return redirect(request, f"/{name}/patches/{number}")


def read(request: Request) -> schemas.CardRequest:
    """Return the card of a form; browsers end lines with CR and LF."""
    text = "".join(forms.fields(request).get("card", [])[-1:]).replace("\r\n", "\n").strip()
    return forms.read(schemas.CardRequest, request, card=f"{text}\n")


def page(
    request: Request,
    actor: Actor | None,
    model: schemas.Model,
    card: schemas.CardProposal,
    comments: schemas.CommentPage,
    quoted: str,
) -> Response:
    """Return the page of a proposed card; its form for a comment begins with what is quoted."""
    lines = (card.diff or "").split("\n")
    return render.page(
        request,
        "card.html",
        model=model,
        card=card,
        lines=[(KINDS.get(line[:1], "same"), line) for line in lines[:LINES]],
        more=max(len(lines) - LINES, 0),
        thread=[("comment", row) for row in comments.items[::-1]],
        earlier=render.next_page(request.url.path, comments.next),
        quoted=quoted,
        may=permits.permitted(actor, model, card.author),
    )

"""Pages of patches: the list of a model's patches, and one patch at a revision."""

import shlex
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field

from registry import schemas
from registry.documents.trailers import from_options
from registry.errors import NotFound
from registry.server.api import patches
from registry.server.api.reviews import Before as Cursor
from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import FilePath, ModelName, PatchRef
from registry.server.pages.comparing import conflict_summary, layers
from registry.server.pages.curation import cards, next_steps
from registry.server.pages.frame import permits, render
from registry.server.pages.frame.route import PageRoute
from registry.server.views import conflicts as conflict_views
from registry.server.views import models as model_views
from registry.server.views import patches as patch_views
from registry.server.views import reviews as review_views

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)
STATES = get_args(schemas.PatchState)
PAGE = 50
BARS, ROWS, PAIRS = 40, 500, 50  # most that a page shows: bars and rows of tensors, pairs
COMMENTS, CARDS = 30, 20  # the same, of a proposed card, and of proposed cards
Blank = BeforeValidator(lambda given: None if given == "" else given)  # a field of a form that was left empty
State = Annotated[schemas.PatchState | None, Blank, Query()]
Words = Annotated[str, Query(max_length=100, pattern=r"^[^\x00]*$")]
Percent = Annotated[Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None, Blank, Query()]
Before = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Entry = tuple[Literal["revision", "review", "comment"], schemas.Patch | schemas.Review | schemas.Comment]


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
    """Show the patches of a model, newest first, with filters."""
    with ctx.database.read() as session:
        page = patch_views.listing(
            session,
            name,
            task=task.strip() or None,
            author=author.strip() or None,
            state=state,
            density_min=None if density_from is None else density_from / 100,
            density_max=None if density_to is None else density_to / 100,
            tensor=tensor.strip() or None,
            before=before,
            limit=PAGE,
        )
        row = model_views.find(session, name)
        shown = model_views.show(session, actor, row)
        proposed = patch_views.card_page(session, row, "proposed", None, CARDS).items if before is None else []
    filters: dict[str, Any] = {"state": state, "task": task, "author": author, "tensor": tensor}
    filters |= {"density_from": density_from, "density_to": density_to}
    following = render.next_page(f"/{name}/patches", page.next, **filters)
    return render.page(
        request,
        "patches.html",
        model=shown,
        page=page,
        cards=proposed,
        filters=filters,
        before=before,
        next=following,
        states=STATES,
    )


@router.get("/patches/{number}")
@allow("model.read")
def patch(
    request: Request,
    name: ModelName,
    patch: PatchRef,
    actor: VisitorDep,
    ctx: ContextDep,
    reported: bool = False,
    before: Cursor = None,
    quote: uuid.UUID | None = None,
) -> Response:
    """Show a patch at a revision: what it changes, its discussion, and what the visitor can do with it.

    `quote` is a comment or verdict among those shown, with which the form for a comment begins.
    """
    with ctx.database.read() as session:
        model_row = model_views.find(session, name)
        model = model_views.show(session, actor, model_row)
        try:
            row = patch_views.find(session, model_row, patch)
        except NotFound:
            if patch[1] is not None:
                raise
            if (card := patch_views.proposed_card(session, model_row, patch[0])) is not None:
                page = review_views.comment_page(session, actor, model_row, card.number, before, COMMENTS)
                return cards.page(request, actor, model, card, page, quoted(page.items, quote))
            if (push := patch_views.push(session, model_row, patch[0])) is None:
                raise
            description = shlex.quote("\n".join(from_options(push.error or "")))
            return render.page(request, "push.html", model=model, push=push, description=description)
        discussion = review_views.discussion(session, actor, model_row, row, before)
        own = actor is not None and actor.name == discussion.patch.author
        upcoming = patch_views.upcoming(session, row) if own else None
        checked = discussion.patch.check == "checked"
        tensors = patch_views.tensors(session, row) if checked else []
        pairs = conflict_views.pairs_of_patch(session, actor, model_row, row, PAIRS) if checked else []
    may = permits.permitted(actor, model, discussion.patch.author)
    steps = permits.steps(actor, discussion.patch, may)
    return render.page(
        request,
        "patch.html",
        model=model,
        patch=discussion.patch,
        discussion=discussion,
        upcoming=upcoming,
        thread=thread(discussion, newest=before is None),
        earlier=render.next_page(request.url.path, discussion.earlier_comments),
        quoted=quoted([*discussion.comments, *discussion.reviews], quote),
        tensors=tensors,
        remarks=review_views.remarks_by_tensor(discussion.remarks, tensors[:ROWS]),
        pairs=pairs,
        summary=conflict_summary,
        energy=energy,
        densities=densities,
        most=ROWS,
        may=may,
        steps=steps,
        next_step=next_steps.of_patch(actor, discussion, steps, may, f"/{name}"),
        reported=reported,
    )


@router.get("/patches/{number}/file")
@allow("model.read")
def file(request: Request, name: ModelName, patch: PatchRef, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Download a checked patch file with the sign-in of a browser."""
    return patches.file(name, patch, request, actor, ctx)


@router.get("/patches/{number}/files/{path:path}")
@allow("model.read")
def file_beside(
    request: Request, name: ModelName, patch: PatchRef, path: FilePath, actor: VisitorDep, ctx: ContextDep
) -> Response:
    """Download a file that came with a patch with the sign-in of a browser."""
    return patches.file_beside(name, patch, path, request, actor, ctx)


def thread(discussion: schemas.Discussion, *, newest: bool) -> list[Entry]:
    """Return the revisions, reviews and comments of a patch by time; comments alone on pages of earlier ones."""
    entries: list[Entry] = [("comment", row) for row in discussion.comments]
    if newest:
        entries += [("revision", row) for row in discussion.revisions]
        entries += [("review", row) for row in discussion.reviews]
    return sorted(entries, key=lambda entry: entry[1].created_at)


def quoted(said: Sequence[schemas.Comment | schemas.Review], wanted: uuid.UUID | None) -> str:
    """Return the message of a comment or verdict as a quote in Markdown, or nothing if there is no such one."""
    message = next((row.message for row in said if row.id == str(wanted)), "")
    lines = [f"> {line}".rstrip() for line in message.splitlines()]
    return "\n".join([*lines, "", ""]) if lines else ""


def energy(tensors: Sequence[schemas.TensorStats]) -> tuple[list[str], list[str], list[list[float | None]]]:
    """Return the share of each layer and projection in the energy (sum of squares) of a patch, in percent."""
    whole = sum(tensor.l2**2 for tensor in tensors)
    return layers.grid({tensor.name: 100 * tensor.l2**2 / whole for tensor in tensors} if whole else {})


def densities(tensors: Sequence[schemas.TensorStats]) -> list[tuple[str, float | None]]:
    """Return the densest tensors, with the share of their weights that the patch changes, in percent."""
    densest = sorted(tensors, key=lambda tensor: (-tensor.density, tensor.name))[:BARS]
    return [(tensor.name, 100 * tensor.density) for tensor in densest]

"""Routes of the Hub's discussions: each is a patch of ours and its thread, by the same services and rules as our API.

A pull request is opened by pushing. Comments, steps and decisions are written here; what a thread here cannot do is
refused by a sentence, in `refusing`.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import StringConstraints

from registry.db.tables import now
from registry.errors import EntryNotFound, NotFound
from registry.schemas.wire import Message, Wire
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.edge.paths import Number
from registry.server.hub import discussion_views as views
from registry.server.hub.route import HubRoute, Repository
from registry.services.catalog import models, patches
from registry.services.curation import cards, comments, reviews
from registry.services.hub import discussions, pushes
from registry.services.people import access

DISCUSSIONS = "/api/models/{namespace}/{name}/discussions"
ONE = DISCUSSIONS + "/{number}"
PAGE = 50
BY_HUB = "by a client of the Hugging Face Hub, which gave no reason"
Author = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00]*$")]
router = APIRouter(tags=["hub"], route_class=HubRoute, include_in_schema=False)


class DiscussionComment(Wire):
    """A comment."""

    comment: Annotated[Message, StringConstraints(min_length=1)]


class DiscussionEdit(Wire):
    """The text that a comment should have."""

    content: Annotated[Message, StringConstraints(min_length=1)]


class DiscussionStatus(Wire):
    """The status that a pull request should have, and why."""

    status: Literal["open", "closed"]
    comment: Message = ""


class DiscussionMerge(Wire):
    """Why a pull request is merged."""

    comment: Message = ""


NO_COMMENT = DiscussionMerge()


@contextmanager
def within_model() -> Iterator[None]:
    """Have what is missing in a model that the caller sees told as that; to the Hub, `NotFound` is about the model."""
    try:
        yield
    except NotFound as why:
        raise EntryNotFound(why.message) from why


@router.get(DISCUSSIONS)
@allow("model.read")
def listing(
    name: Repository,
    ctx: ContextDep,
    author: Author = None,
    status: Literal["all", "open", "closed"] = "all",
    type: Literal["all", "discussion", "pull_request"] = "all",
    p: Annotated[int, Query(ge=0, le=10**6)] = 0,
) -> dict[str, Any]:
    """List patches as pull requests, newest first; there are no other discussions."""
    wanted = None if status == "all" else status
    with ctx.database.read() as session:
        model = models.find(session, name)
        rows, total = (
            ([], 0)
            if type == "discussion"
            else discussions.page(session, model, author=author, wanted=wanted, start=p * PAGE, limit=PAGE)
        )
        shown = [views.discussion(model, row) for row in rows]
    return {"discussions": shown, "count": total, "start": p * PAGE}


@router.get(ONE)
@allow("model.read")
def details(name: Repository, number: Number, actor: VisitorDep, ctx: ContextDep, here: PublicUrl) -> dict[str, Any]:
    """Show a patch as a pull request: its revisions, verdicts, comments and steps as events."""
    with within_model(), ctx.database.read() as session:
        model = models.find(session, name)
        card = cards.seek(session, model, number)
        try:
            row = card or patches.find_in(session, model, number)
        except NotFound:
            if (push := pushes.find(session, model, number)) is None:
                raise
            return views.opening(model, push)
        thread = discussions.thread(session, model, row.patch)
        shown = views.details(model, row, thread, here, comments.sees_hidden(session, actor, model))
        return {**shown, "diff": cards.diff(model, card) if card else None}


@router.post(ONE + "/comment")
@allow("patch.comment")
def comment(
    name: Repository, number: Number, body: DiscussionComment, actor: ActorDep, ctx: ContextDep
) -> dict[str, Any]:
    """Comment on a patch."""
    with within_model(), ctx.writing(actor, body) as session:
        return {"newMessage": views.comment(comments.add(session, actor, name, number, None, body.comment))}


@router.post(ONE + "/status")
@allow("patch.comment")
def change_status(
    name: Repository, number: Number, body: DiscussionStatus, actor: ActorDep, ctx: ContextDep, request: Request
) -> dict[str, Any]:
    """Propose your patch (open) or withdraw it (closed); as a maintainer, reject somebody else's (closed)."""
    with within_model(), ctx.writing(actor, body) as session:
        model = models.find(session, name)
        try:
            patch = comments.find_thread(session, model, number)
        except NotFound:
            if body.status != "closed":
                raise
            access.admit(session, actor, "patch.withdraw", request.path_params)
            push = pushes.withdraw(session, actor, name, number)
            return {"newStatus": views.changed(push.patch_id.hex, actor.name, now(), body.status)}
        verb = discussions.verb(actor, patch, body.status)
        access.admit(session, actor, f"patch.{verb}", request.path_params)
        why = body.comment or (f"Closed {BY_HUB}." if verb == "reject" else "")
        if verb == "propose" and why:
            comments.add(session, actor, name, number, None, why)
        if (card := cards.seek(session, model, number)) is not None and verb == "propose":
            cards.require_open(card, f"{name}#{number}")
        elif card is not None:
            cards.close(session, actor, name, number, verb, why)
        else:
            reviews.move(session, actor, name, number, verb, "" if verb == "propose" else why)
        return {"newStatus": views.changed(patch.id.hex, actor.name, now(), body.status)}


@router.post(ONE + "/merge")
@allow("patch.accept")
def merge(
    name: Repository, number: Number, actor: ActorDep, ctx: ContextDep, body: DiscussionMerge = NO_COMMENT
) -> dict[str, Any]:
    """Accept a patch that has the required checks, approvals and evaluations, or the card that is proposed."""
    with within_model(), ctx.writing(actor, body) as session:
        model = models.find(session, name)
        if cards.seek(session, model, number) is not None:
            return views.discussion(model, cards.accept(session, actor, ctx.store, name, number, body.comment))
        return views.discussion(model, reviews.accept(session, actor, name, number, body.comment, None, []))


@router.post(ONE + "/comment/{comment_id}/edit")
@allow("comment.edit")
def edit(
    name: Repository, number: Number, comment_id: uuid.UUID, body: DiscussionEdit, actor: ActorDep, ctx: ContextDep
) -> dict[str, Any]:
    """Give your own comment another text; the one before is kept on our pages."""
    with within_model(), ctx.writing(actor, body) as session:
        return {"updatedComment": views.comment(comments.edit(session, actor, name, number, comment_id, body.content))}


@router.post(ONE + "/comment/{comment_id}/hide")
@allow("comment.delete")
def hide(
    name: Repository, number: Number, comment_id: uuid.UUID, actor: ActorDep, ctx: ContextDep, request: Request
) -> dict[str, Any]:
    """Delete your own comment, or hide somebody else's as a maintainer; to the Hub, either is hidden."""
    with within_model(), ctx.database.write() as session:
        if comments.find(session, name, number, comment_id).author_id == actor.user_id:
            row = comments.delete(session, actor, name, number, comment_id, "")
        else:
            access.admit(session, actor, "comment.hide", request.path_params)
            row = comments.hide(session, actor, name, number, comment_id, f"Hidden {BY_HUB}.")
        return {"updatedComment": views.comment(row)}

"""Routes of reviews: what people say and decide about patches, and their evaluations."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.schemas.evaluations import Subject
from registry.server.edge.admission import ActorDep, Route, VisitorDep, allow
from registry.server.edge.context import Context, ContextDep
from registry.server.edge.paths import ModelName, Number, PatchRef
from registry.server.errors import RESPONSES
from registry.server.views import patches as patch_views
from registry.server.views import reviews as review_views
from registry.services.catalog import models, patches
from registry.services.curation import comments, evaluations, reviews
from registry.services.people import paging
from registry.services.people.actors import Actor

Before = Annotated[str | None, Query(pattern=paging.CURSOR)]
Limit = Annotated[int, Query(ge=1, le=100)]
Compared = Annotated[
    list[Subject],
    Query(alias="with", max_length=review_views.MOST_SUBJECTS, description="#3, 3.2, a version, a channel, a recipe"),
]
router = APIRouter(prefix="/api/v1/models/{namespace}/{name}", tags=["reviews"], route_class=Route, responses=RESPONSES)


@router.get("/patches/{number}/discussion")
@allow("model.read")
def discussion(name: ModelName, patch: PatchRef, actor: VisitorDep, ctx: ContextDep) -> schemas.Discussion:
    """Show a patch with its revisions, checks, reviews, comments and evaluations."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        return review_views.discussion(session, actor, model, patches.find_in(session, model, *patch))


@router.post("/patches/{number}/propose")
@allow("patch.propose")
def propose(name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> schemas.Patch:
    """Propose a patch for review."""
    return move(ctx, actor, name, number, "propose", schemas.Reason())


@router.post("/patches/{number}/withdraw")
@allow("patch.withdraw")
def withdraw(name: ModelName, number: Number, body: schemas.Reason, actor: ActorDep, ctx: ContextDep) -> schemas.Patch:
    """Withdraw your patch."""
    return move(ctx, actor, name, number, "withdraw", body)


@router.post("/patches/{number}/reviews", status_code=201)
@allow("patch.review")
def review(
    name: ModelName, number: Number, body: schemas.ReviewRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Approve the newest revision of somebody else's patch, or request changes."""
    with ctx.writing(actor, body) as session:
        row = reviews.review(session, actor, name, number, body.revision, body.verdict, body.message, body.about)
        return patch_views.patch(name, row)


@router.post("/patches/{number}/accept")
@allow("patch.accept")
def accept(
    name: ModelName, number: Number, body: schemas.AcceptRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Accept a patch that has the required checks, approvals and evaluations; releases may then hold it."""
    with ctx.writing(actor, body) as session:
        row = reviews.accept(session, actor, name, number, body.message, body.revision, body.supersedes)
        return patch_views.patch(name, row)


@router.post("/patches/{number}/reject")
@allow("patch.reject")
def reject(
    name: ModelName, number: Number, body: schemas.ReasonNeeded, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Reject a patch."""
    return move(ctx, actor, name, number, "reject", body)


@router.post("/patches/{number}/yank")
@allow("patch.yank")
def yank(
    name: ModelName, number: Number, body: schemas.ReasonNeeded, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Yank an accepted patch: no new composition may hold it; the answer names the releases and channels that do."""
    return move(ctx, actor, name, number, "yank", body)


@router.post("/patches/{number}/unyank")
@allow("patch.yank")
def unyank(name: ModelName, number: Number, body: schemas.Reason, actor: ActorDep, ctx: ContextDep) -> schemas.Patch:
    """Undo a yank."""
    return move(ctx, actor, name, number, "unyank", body)


@router.put("/patches/{number}/quarantine")
@allow("patch.quarantine")
def quarantine(
    name: ModelName, number: Number, body: schemas.QuarantineRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Quarantine a patch: its bytes, and whatever is composed of it, are served to admins only."""
    with ctx.writing(actor, body) as session:
        row = reviews.quarantine(session, actor, name, number, body.reason)
        affected = reviews.affected(session, row.patch)
        return patch_views.patch(name, row, affected=affected)


@router.post("/patches/{number}/comments", status_code=201)
@allow("patch.comment")
def comment(
    name: ModelName, number: Number, body: schemas.CommentRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Comment:
    """Comment on a patch."""
    with ctx.writing(actor, body) as session:
        row = comments.add(session, actor, name, number, body.revision, body.message, body.about)
        return review_views.comment(row)


@router.put("/patches/{number}/comments/{comment_id}")
@allow("comment.edit")
def edit_comment(
    name: ModelName,
    number: Number,
    comment_id: uuid.UUID,
    body: schemas.CommentEditRequest,
    actor: ActorDep,
    ctx: ContextDep,
) -> schemas.Comment:
    """Give your comment another text; the one before is kept, for whoever may read it."""
    with ctx.writing(actor, body) as session:
        return review_views.comment(comments.edit(session, actor, name, number, comment_id, body.message))


@router.get("/patches/{number}/comments/{comment_id}/history")
@allow("model.read")
def comment_history(
    name: ModelName, number: Number, comment_id: uuid.UUID, actor: VisitorDep, ctx: ContextDep
) -> schemas.CommentHistory:
    """Show all texts of a comment."""
    with ctx.database.read() as session:
        return review_views.comment_history(session, actor, name, number, comment_id)


@router.post("/patches/{number}/comments/{comment_id}/delete")
@allow("comment.delete")
def delete_comment(
    name: ModelName, number: Number, comment_id: uuid.UUID, body: schemas.Reason, actor: ActorDep, ctx: ContextDep
) -> schemas.Comment:
    """Delete a comment: your own or, as a maintainer and with a reason, anybody's; who, when and why stay."""
    with ctx.database.write() as session:
        row = comments.delete(session, actor, name, number, comment_id, body.message)
        return review_views.comment(row)


@router.put("/patches/{number}/comments/{comment_id}/hidden")
@allow("comment.hide")
def hide_comment(
    name: ModelName, number: Number, comment_id: uuid.UUID, body: schemas.HideRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Comment:
    """Hide a comment, with a reason, or (null) show it again; while it is hidden, only maintainers see its text."""
    with ctx.writing(actor, body) as session:
        row = comments.hide(session, actor, name, number, comment_id, body.reason)
        return review_views.comment(row, sees_hidden=True)


@router.get("/patches/{number}/comments")
@allow("model.read")
def list_comments(
    name: ModelName, number: Number, actor: VisitorDep, ctx: ContextDep, before: Before = None, limit: Limit = 20
) -> schemas.CommentPage:
    """List the comments on a patch, newest first."""
    with ctx.database.read() as session:
        return review_views.comment_page(session, actor, models.find(session, name), number, before, limit)


@router.get("/patches/{number}/reviews")
@allow("model.read")
def list_reviews(
    name: ModelName, number: Number, ctx: ContextDep, before: Before = None, limit: Limit = 20
) -> schemas.ReviewPage:
    """List the verdicts on a patch, newest first."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        return review_views.review_page(session, model, patches.find_in(session, model, number, None), before, limit)


@router.get("/inbox")
@allow("inbox.read")
def inbox(
    name: ModelName,
    actor: ActorDep,
    ctx: ContextDep,
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 100,
) -> schemas.Inbox:
    """Show what waits for you in a model: patches by number, and releases to publish."""
    with ctx.database.read() as session:
        return review_views.inbox_of(session, actor, models.find(session, name), after, limit)


@router.post("/evaluations", status_code=201)
@allow("evaluation.add")
def add_evaluation(
    name: ModelName, body: schemas.EvaluationRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Evaluation:
    """Record an evaluation of the base, a patch revision, a release or a composed recipe, as measured by you."""
    evaluation = evaluations.NewEvaluation(**body.model_dump(exclude={"ref"}))
    with ctx.writing(actor, body) as session:
        row, subject = evaluations.add(session, actor, name, body.ref, evaluation)
        session.refresh(row, ["user"])
        return review_views.evaluation(row, subject)


@router.put("/evaluations")
@allow("evaluation.add")
def add_evaluations(
    name: ModelName, body: schemas.EvaluationsRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.RecordedEvaluations:
    """Record many evaluations of one subject, all or none; what you recorded before is not added again."""
    shared = body.model_dump(include={"source", "command", "tried"})
    new = [evaluations.NewEvaluation(**score.model_dump(), **shared) for score in body.scores]
    with ctx.writing(actor, body, entries=len(new)) as session:
        added, known, subject = evaluations.add_new(session, actor, name, body.ref, new)
        return review_views.recorded(session, subject, added, known)


@router.get("/evaluations")
@allow("model.read")
def list_evaluations(
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    ref: Annotated[str | None, Query(max_length=100, pattern=r"^[ -~]+$")] = None,
    after: uuid.UUID | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.EvaluationPage:
    """List evaluations, of one subject or of a whole model."""
    with ctx.database.read() as session:
        return review_views.evaluation_page(session, actor, models.find(session, name), ref, after, limit)


@router.get("/evaluations/compare")
@allow("model.read")
def compare_evaluations(
    name: ModelName,
    actor: VisitorDep,
    ctx: ContextDep,
    chosen: Compared = [],  # noqa: B006
) -> schemas.EvaluationComparison:
    """Compare the newest evaluations of the base and of patches alone, recipes and releases, metric by metric."""
    with ctx.database.read() as session:
        return review_views.compared(session, actor, models.find(session, name), chosen).comparison


def move(
    ctx: Context, actor: Actor, name: str, number: int, verb: str, body: schemas.Reason | schemas.ReasonNeeded
) -> schemas.Patch:
    """Take one step in a patch's life; the answer to a yank names the affected releases and channels."""
    with ctx.writing(actor, body) as session:
        row = reviews.move(session, actor, name, number, verb, body.message)
        affected = reviews.affected(session, row.patch) if verb == "yank" else None
        return patch_views.patch(name, row, affected=affected)

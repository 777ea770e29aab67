"""Routes of what people say and decide about patches, and of what they measured."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from registry import schemas
from registry.server.edge.deps import (
    ActorDep,
    Context,
    ContextDep,
    ModelName,
    Number,
    PatchRef,
    Route,
    VisitorDep,
    allow,
)
from registry.server.errors import RESPONSES
from registry.server.views import patches as patch_views
from registry.services.catalog import models, patches
from registry.services.curation import evaluations, reviews
from registry.services.curation import inbox as inboxes
from registry.services.people.actors import Actor
from registry.services.releasing import releases

router = APIRouter(prefix="/api/v1/models/{namespace}/{name}", tags=["reviews"], route_class=Route, responses=RESPONSES)


@router.get("/patches/{number}/discussion")
@allow("model.read")
def discussion(name: ModelName, patch: PatchRef, ctx: ContextDep) -> schemas.Discussion:
    """Show all that was said and found of a patch."""
    with ctx.database.read() as session:
        return patch_views.discussion(session, models.find(session, name), patches.find(session, name, *patch))


@router.post("/patches/{number}/propose")
@allow("patch.propose")
def propose(name: ModelName, number: Number, actor: ActorDep, ctx: ContextDep) -> schemas.Patch:
    """Ask for review."""
    return move(ctx, actor, name, number, "propose", "")


@router.post("/patches/{number}/withdraw")
@allow("patch.withdraw")
def withdraw(name: ModelName, number: Number, body: schemas.Reason, actor: ActorDep, ctx: ContextDep) -> schemas.Patch:
    """Take your patch back."""
    return move(ctx, actor, name, number, "withdraw", body.message)


@router.post("/patches/{number}/reviews", status_code=201)
@allow("patch.review")
def review(
    name: ModelName, number: Number, body: schemas.ReviewRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Approve the newest revision of somebody else's patch, or request changes."""
    with ctx.database.write() as session:
        row = reviews.review(session, actor, name, number, body.revision, body.verdict, body.message)
        return patch_views.patch(name, row)


@router.post("/patches/{number}/accept")
@allow("patch.accept")
def accept(
    name: ModelName, number: Number, body: schemas.AcceptRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Accept a patch, once checks, approvals and evaluations are there; releases may hold it then."""
    with ctx.database.write() as session:
        row = reviews.accept(session, actor, name, number, body.message, body.revision, body.supersedes)
        return patch_views.patch(name, row)


@router.post("/patches/{number}/reject")
@allow("patch.reject")
def reject(
    name: ModelName, number: Number, body: schemas.ReasonNeeded, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Reject a patch."""
    return move(ctx, actor, name, number, "reject", body.message)


@router.post("/patches/{number}/yank")
@allow("patch.yank")
def yank(
    name: ModelName, number: Number, body: schemas.ReasonNeeded, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Yank an accepted patch: no new composition holds it; the answer names the releases and channels that do."""
    return move(ctx, actor, name, number, "yank", body.message)


@router.post("/patches/{number}/unyank")
@allow("patch.yank")
def unyank(name: ModelName, number: Number, body: schemas.Reason, actor: ActorDep, ctx: ContextDep) -> schemas.Patch:
    """Undo a yank."""
    return move(ctx, actor, name, number, "unyank", body.message)


@router.put("/patches/{number}/quarantine")
@allow("patch.quarantine")
def quarantine(
    name: ModelName, number: Number, body: schemas.QuarantineRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Patch:
    """Quarantine a patch: its bytes, and what is composed of it, are served to admins alone."""
    with ctx.database.write() as session:
        row = reviews.quarantine(session, actor, name, number, body.reason)
        affected = reviews.affected(session, row.patch)
        return patch_views.patch(name, row, affected=affected)


@router.post("/patches/{number}/comments", status_code=201)
@allow("patch.comment")
def comment(
    name: ModelName, number: Number, body: schemas.CommentRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Comment:
    """Say something about a patch."""
    with ctx.database.write() as session:
        row = reviews.comment(session, actor, name, number, body.revision, body.message)
        return schemas.Comment(author=actor.name, revision=row.revision, message=row.message, created_at=row.created_at)


@router.get("/inbox")
@allow("inbox.read")
def inbox(name: ModelName, actor: ActorDep, ctx: ContextDep) -> schemas.Inbox:
    """Show what waits for you in a model."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        waiting = {
            kind: [patch_views.patch(name, row) for row in rows]
            for kind, rows in inboxes.inbox_of(session, actor, model).items()
        }
        return schemas.Inbox(**waiting, **releases.inbox(session, actor, model))


@router.post("/evaluations", status_code=201)
@allow("evaluation.add")
def add_evaluation(
    name: ModelName, body: schemas.EvaluationRequest, actor: ActorDep, ctx: ContextDep
) -> schemas.Evaluation:
    """Record a measured number of the base, a patch revision or a release, as measured by you."""
    given = evaluations.NewEvaluation(**body.model_dump(exclude={"ref"}))
    with ctx.database.write() as session:
        row, subject = evaluations.add(session, actor, name, body.ref, given)
        session.refresh(row, ["user"])
        return patch_views.evaluation(row, subject)


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
    """List what was measured: of one thing, all at once, or of everything, page by page."""
    with ctx.database.read() as session:
        model = models.find(session, name)
        if ref is None:
            page, cursor = evaluations.listing(session, model, after, limit)
            return schemas.EvaluationPage(items=[patch_views.evaluation(*row) for row in page], next=cursor)
        subject = evaluations.find_subject(session, actor, model, ref)
        found = evaluations.evaluations_of(session, model, subject)
        return schemas.EvaluationPage(items=[patch_views.evaluation(row, subject) for row in found], next=None)


def move(ctx: Context, actor: Actor, name: str, number: int, verb: str, message: str) -> schemas.Patch:
    """Take one step in a patch's life; a yank says what it touches."""
    with ctx.database.write() as session:
        row = reviews.move(session, actor, name, number, verb, message)
        affected = reviews.affected(session, row.patch) if verb == "yank" else None
        return patch_views.patch(name, row, affected=affected)

"""Views of what people say and decide about patches, and of evaluations: the discussion of a patch, and the inbox."""

import uuid

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Comment, Evaluation, Model, PatchRevision, Review
from registry.server.views import patches as patch_views
from registry.services.catalog import patches
from registry.services.curation import evaluations, inbox, reviews
from registry.services.curation.evaluations import Subject
from registry.services.people.actors import Actor
from registry.services.releasing import releases


def review(row: Review, counts: bool) -> schemas.Review:
    """Return the shape of a verdict."""
    return schemas.Review.model_validate(
        {
            "reviewer": row.reviewer.name,
            "verdict": row.verdict,
            "revision": row.revision.number,
            "sha256": row.revision.sha256,
            "counts": counts,
            "message": row.message,
            "created_at": row.created_at,
        }
    )


def comment(row: Comment, author: str) -> schemas.Comment:
    """Return the shape of a comment."""
    return schemas.Comment(author=author, revision=row.revision, message=row.message, created_at=row.created_at)


def evaluation(row: Evaluation, subject: Subject) -> schemas.Evaluation:
    """Return the shape of an evaluation."""
    same = ("task", "dataset", "metric", "value", "higher_is_better", "source", "command", "created_at")
    return schemas.Evaluation(
        id=str(row.id),
        subject=subject.name,
        user=row.user.name,
        **{name: getattr(row, name) for name in same},
    )


def discussion(session: Session, model: Model, row: PatchRevision) -> schemas.Discussion:
    """Return a patch with its revisions, checks, reviews, comments and evaluations, and what it still needs.

    Each table is queried once: `missing` is computed from the rows at hand.
    """
    subject = Subject(revision=row)
    checks, verdicts = patches.checks(session, row), reviews.reviews(session, row.patch)
    measured = evaluations.evaluations_of(session, model, subject)
    counted = reviews.counting(session, model, verdicts, reviews.authors([row])).get(row.id, {})
    counting = {verdict.id for verdict in counted.values()}
    recorded = {f"{found.dataset}:{found.metric}" for found in measured}
    lacking = evaluations.missing_among(model, recorded)
    missing = reviews.missing_in(model, row, checks, len(reviews.approving(counted)), lacking)
    return schemas.Discussion(
        patch=patch_views.show(session, model, row),
        revisions=[patch_views.patch(model.full_name, found) for found in patches.history(session, row.patch)],
        checks=[patch_views.check(found) for found in checks],
        reviews=[review(found, found.id in counting) for found in verdicts],
        comments=[comment(found, found.author.name) for found in reviews.comments(session, row.patch)],
        evaluations=[evaluation(found, subject) for found in measured],
        affected=schemas.Affected.model_validate(reviews.affected(session, row.patch)),
        missing=missing if row.patch.state in patches.REVISABLE else [],
    )


def inbox_of(session: Session, actor: Actor, model: Model) -> schemas.Inbox:
    """Return what waits for the caller in a model."""
    waiting = {
        kind: [patch_views.patch(model.full_name, row) for row in rows]
        for kind, rows in inbox.inbox_of(session, actor, model).items()
    }
    return schemas.Inbox(**waiting, **releases.inbox(session, actor, model))


def evaluation_page(
    session: Session, actor: Actor | None, model: Model, ref: str | None, after: uuid.UUID | None, limit: int
) -> schemas.EvaluationPage:
    """Return all evaluations of what a reference names or, without one, a page of all evaluations in a model."""
    if ref is None:
        rows, cursor = evaluations.listing(session, model, after, limit)
        return schemas.EvaluationPage(items=[evaluation(*row) for row in rows], next=cursor)
    subject = evaluations.find_subject(session, actor, model, ref)
    found = evaluations.evaluations_of(session, model, subject)
    return schemas.EvaluationPage(items=[evaluation(row, subject) for row in found], next=None)


def can_take(state: schemas.PatchState, verb: str) -> bool:
    """Return whether a patch in a state can take a step."""
    return state in reviews.STEPS[verb][0]

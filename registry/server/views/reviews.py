"""Views of what people say and decide about patches, and of evaluations: the discussion of a patch, and the inbox."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Comment, Evaluation, Model, PatchRevision, Review, User
from registry.server.views import patches as patch_views
from registry.services.catalog import norms, patches
from registry.services.curation import comments, comparisons, evaluations, inbox, remarks, reviews
from registry.services.curation.comparisons import MOST_SUBJECTS as MOST_SUBJECTS
from registry.services.curation.evaluations import Subject as Subject
from registry.services.people import policies
from registry.services.people.actors import Actor
from registry.services.releasing import releases

NEWEST = 30  # revisions, reviews and comments of a discussion; the others are in pages of their own
EVALUATIONS = 100


def review(row: Review, counts: bool) -> schemas.Review:
    """Return the shape of a verdict."""
    return schemas.Review.model_validate(
        {
            "id": str(row.id),
            "reviewer": row.reviewer.name,
            "verdict": row.verdict,
            "revision": row.revision.number,
            "sha256": row.revision.sha256,
            "counts": counts,
            "message": row.message,
            "about": row.about or [],
            "created_at": row.created_at,
        }
    )


def review_page(
    session: Session, model: Model, row: PatchRevision, before: str | None, limit: int
) -> schemas.ReviewPage:
    """Return a page of the verdicts on a patch, newest first."""
    counting = {verdict.id for verdict in reviews.verdicts(session, model, row).values()}
    rows, cursor = reviews.reviews(session, row.patch, before, limit)
    return schemas.ReviewPage(items=[review(found, found.id in counting) for found in rows], next=cursor)


def comment(row: Comment, sees_hidden: bool = False) -> schemas.Comment:
    """Return the shape of a comment; the text of a hidden one only for those who see it."""
    return schemas.Comment(
        id=str(row.id),
        author=row.author.name,
        revision=row.revision,
        message=row.message if sees_hidden or row.hidden_at is None else "",
        about=row.about or [],
        created_at=row.created_at,
        edited_at=row.edited_at,
        deleted=moderation(row.deleted_by, row.deleted_at, row.deletion_reason),
        hidden=moderation(row.hidden_by, row.hidden_at, row.hiding_reason),
    )


def moderation(user: User | None, at: datetime | None, reason: str | None) -> schemas.Moderation | None:
    """Return the shape of who did something to a comment, when and why; None if nobody did."""
    return schemas.Moderation(user=user.name, reason=reason or "", at=at) if user and at else None


def comment_page(
    session: Session, actor: Actor | None, model: Model, number: int, before: str | None, limit: int
) -> schemas.CommentPage:
    """Return a page of the comments on a patch or a proposed card, newest first."""
    rows, cursor = comments.listing(session, comments.find_thread(session, model, number), before, limit)
    sees = comments.sees_hidden(session, actor, model)
    return schemas.CommentPage(items=[comment(found, sees) for found in rows], next=cursor)


def comment_history(
    session: Session, actor: Actor | None, full_name: str, number: int, comment_id: uuid.UUID
) -> schemas.CommentHistory:
    """Return all texts of a comment.

    Raises:
        NotFound: The patch has no such comment, or the caller may not read it.
    """
    row, before = comments.edits(session, actor, full_name, number, comment_id)
    texts = [schemas.CommentText(message=edit.message, written_at=edit.written_at) for edit in before]
    texts.append(schemas.CommentText(message=row.message, written_at=row.edited_at or row.created_at))
    return schemas.CommentHistory(id=str(row.id), author=row.author.name, texts=texts)


def remark(row: remarks.Remark) -> schemas.Remark:
    """Return the shape of what somebody said about tensors."""
    return schemas.Remark.model_validate({**vars(row), "id": str(row.id)})


def remarks_by_tensor(
    found: Sequence[schemas.Remark], tensors: Sequence[schemas.TensorStats]
) -> dict[str, list[schemas.Remark]]:
    """Return the remarks on each of some tensors, by their names; tensors without any are left out."""
    by_name = {row.name: [one for one in found if remarks.refers(one.about, row.name)] for row in tensors}
    return {name: listed for name, listed in by_name.items() if listed}


def evaluation(row: Evaluation, subject: Subject) -> schemas.Evaluation:
    """Return the shape of an evaluation."""
    same = ["task", "dataset", "metric", "value", "stderr", "higher_is_better"]
    same += ["source", "command", "tried", "created_at"]
    return schemas.Evaluation(
        id=str(row.id),
        subject=subject.name,
        user=row.user.name,
        **{name: getattr(row, name) for name in same},
    )


def recorded(
    session: Session, subject: Subject, added: Sequence[Evaluation], known: Sequence[Evaluation]
) -> schemas.RecordedEvaluations:
    """Return the shape of evaluations that were recorded together, and of those that were there."""
    for row in added:
        session.refresh(row, ["user"])
    shown = {name: [evaluation(row, subject) for row in rows] for name, rows in (("added", added), ("known", known))}
    return schemas.RecordedEvaluations(**shown)


def evaluations_of(
    session: Session, model: Model, subject: Subject, newest: int | None = EVALUATIONS
) -> list[schemas.Evaluation]:
    """Return all evaluations of a subject, or so many of the newest, oldest first."""
    return [evaluation(row, subject) for row in evaluations.evaluations_of(session, model, subject, newest)]


def discussion(
    session: Session, actor: Actor | None, model: Model, row: PatchRevision, before: str | None = None
) -> schemas.Discussion:
    """Return a patch with the newest of what was said about it, and what it still needs.

    Args:
        session: A transaction.
        actor: The caller.
        model: The patch's model.
        row: The patch at a revision.
        before: The cursor of earlier comments to return instead of the newest.
    """
    subject, checks = Subject(revision=row), patches.checks(session, row)
    counted = reviews.verdicts(session, model, row)
    counting = {verdict.id for verdict in counted.values()}
    verdicts, earlier_reviews = reviews.reviews(session, row.patch, None, NEWEST)
    said, earlier_comments = comments.listing(session, row.patch, before, NEWEST)
    sees = any(found.hidden_at for found in said) and comments.sees_hidden(session, actor, model)
    unmeasured = evaluations.missing(session, model, revision=row)
    missing = reviews.missing_in(
        model, policies.read(session), row, checks, len(reviews.approving(counted)), unmeasured
    )
    return schemas.Discussion(
        patch=patch_views.show(session, model, row),
        revisions=[patch_views.patch(model.full_name, found) for found in patches.history(session, row.patch, NEWEST)],
        checks=[patch_views.check(found) for found in checks],
        reviews=[review(found, found.id in counting) for found in verdicts[::-1]],
        earlier_reviews=earlier_reviews,
        comments=[comment(found, sees) for found in said[::-1]],
        earlier_comments=earlier_comments,
        evaluations=evaluations_of(session, model, subject),
        affected=schemas.Affected.model_validate(reviews.affected(session, row.patch)),
        missing=missing if row.patch.state in patches.REVISABLE else [],
        hints=[schemas.Hint.model_validate(hint) for hint in norms.hints(session, model, row)],
        remarks=list(map(remark, remarks.listing(session, row.patch))),
    )


def inbox_of(session: Session, actor: Actor, model: Model, after: int, limit: int) -> schemas.Inbox:
    """Return a page of what waits for the caller in a model; all but patches is on the first page, and some cards."""
    rows, cursor = inbox.inbox_of(session, actor, model, after, limit)
    waiting = {kind: [patch_views.patch(model.full_name, row) for row in found] for kind, found in rows.items()}
    others = releases.inbox(session, actor, model) if after == 0 else {"candidates": [], "alarms": []}
    cards = inbox.cards_of(session, actor, model, limit) if after == 0 else []
    shown = [patch_views.card_proposal(model, row, whole=False) for row in cards]
    return schemas.Inbox(**waiting, **others, cards=shown, next=cursor)


def waiting_models(session: Session, actor: Actor, after: str | None, limit: int) -> schemas.WaitingModelPage:
    """Return a page of the models in which something waits for the caller."""
    rows, cursor = inbox.waiting_models(session, actor, after, limit)
    return schemas.WaitingModelPage(items=[schemas.WaitingModel.model_validate(row) for row in rows], next=cursor)


def evaluation_page(
    session: Session, actor: Actor | None, model: Model, ref: str | None, after: uuid.UUID | None, limit: int
) -> schemas.EvaluationPage:
    """Return a page of the evaluations of what a reference names or, without one, of all in a model."""
    subject = None if ref is None else evaluations.find_subject(session, actor, model, ref)
    rows, cursor = evaluations.listing(session, model, subject, after, limit)
    return schemas.EvaluationPage(items=[evaluation(*row) for row in rows], next=cursor)


@dataclass(frozen=True)
class ComparedEvaluations:
    """A comparison of evaluations, and what else could be compared."""

    comparison: schemas.EvaluationComparison
    offered: list[schemas.EvaluatedSubject]


def compared(session: Session, actor: Actor | None, model: Model, refs: Sequence[str]) -> ComparedEvaluations:
    """Return the evaluations of the base and of what some references name, or of what was measured last."""
    offered = comparisons.measured_subjects(session, model)
    subjects = comparisons.choose(session, actor, model, refs, offered)
    rows, more = comparisons.compare(session, model, subjects)
    metrics = [
        schemas.ComparedMetric(
            task=row.task,
            dataset=row.dataset,
            metric=row.metric,
            higher_is_better=row.higher_is_better,
            evaluations=[
                evaluation(found, Subject(recipe=found.recipe_digest) if found.recipe_digest else subject)
                if found
                else None
                for subject, found in zip(subjects, row.found, strict=True)
            ],
            best=row.best,
        )
        for row in rows
    ]
    shown = schemas.EvaluationComparison(subjects=list(map(evaluated, subjects)), metrics=metrics, more=more)
    return ComparedEvaluations(shown, [evaluated(subject) for subject in offered if subject != Subject()])


def evaluated(subject: Subject) -> schemas.EvaluatedSubject:
    """Return the shape of what was measured."""
    kind = "patch" if subject.revision else "release" if subject.release else "recipe" if subject.recipe else "base"
    title = subject.revision.title if subject.revision else None
    return schemas.EvaluatedSubject.model_validate({"ref": subject.name, "kind": kind, "title": title})


def can_take(state: schemas.PatchState, verb: str) -> bool:
    """Return whether a patch in a state can take a step, or another revision."""
    return state in (patches.REVISABLE if verb == "revise" else reviews.STEPS[verb][0])

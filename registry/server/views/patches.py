"""From rows to the shapes on the wire: patches, and what is said and found of them."""

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Check, Comment, Evaluation, Job, Model, PatchRevision, PatchTensor, Review
from registry.server.views import models as model_views
from registry.services.catalog import patches
from registry.services.curation import evaluations, reviews


def patch(
    full_name: str, row: PatchRevision, job_row: Job | None = None, affected: reviews.Affected | None = None
) -> schemas.Patch:
    """Show a patch at a revision."""
    words = ("title", "message", "license", "sha256", "size", "refusal", "nnz", "density")
    mask = ("drop_bottom", "drop_top", "granularity", "value_dtype", "created_at")
    return schemas.Patch.model_validate(
        {
            "model": full_name,
            "number": row.patch.number,
            "revision": row.number,
            "newest": row.patch.revision,
            "state": row.patch.state,
            "reason": row.patch.reason,
            "superseded_by": row.patch.superseded_by,
            "quarantined": row.patch.quarantine_reason,
            "check": row.state,
            "author": row.patch.author.name,
            "task": row.patch.task,
            "base": row.base_digest,
            "job": model_views.job(job_row) if job_row else None,
            "affected": affected,
            **{name: getattr(row, name) for name in (*words, *mask)},
        }
    )


def tensor(row: PatchTensor) -> schemas.TensorStats:
    """Show what a patch does to one tensor."""
    return schemas.TensorStats.model_validate(row)


def check(row: Check) -> schemas.Check:
    """Show what a check found."""
    return schemas.Check.model_validate(row)


def review(row: Review, counts: bool) -> schemas.Review:
    """Show a verdict."""
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


def comment(row: Comment) -> schemas.Comment:
    """Show a comment."""
    return schemas.Comment(
        author=row.author.name, revision=row.revision, message=row.message, created_at=row.created_at
    )


def evaluation(row: Evaluation, subject: evaluations.Subject) -> schemas.Evaluation:
    """Show a measured number."""
    same = ("task", "dataset", "metric", "value", "higher_is_better", "source", "command", "created_at")
    return schemas.Evaluation(
        id=str(row.id),
        subject=subject.name,
        user=row.user.name,
        **{name: getattr(row, name) for name in same},
    )


def discussion(session: Session, model: Model, row: PatchRevision) -> schemas.Discussion:
    """Show all that was said and found of a patch."""
    counting = {found.id for found in reviews.verdicts(session, model, row).values()}
    subject = evaluations.Subject(revision=row)
    return schemas.Discussion(
        patch=patch(model.full_name, row, patches.check_job(session, row)),
        revisions=[patch(model.full_name, found) for found in patches.history(session, row.patch)],
        checks=[check(found) for found in patches.checks(session, row)],
        reviews=[review(found, found.id in counting) for found in reviews.reviews(session, row.patch)],
        comments=[comment(found) for found in reviews.comments(session, row.patch)],
        evaluations=[evaluation(found, subject) for found in evaluations.evaluations_of(session, model, subject)],
        affected=schemas.Affected.model_validate(reviews.affected(session, row.patch)),
        missing=reviews.missing(session, model, row) if row.patch.state in patches.REVISABLE else [],
    )

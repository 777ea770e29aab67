"""From rows to the shapes on the wire: what admins see."""

from registry import schemas
from registry.db.tables import Job, Namespace, Report
from registry.server.views import models as model_views
from registry.services.blobs.quotas import Usage
from registry.services.queue.workers import Seen


def report(row: Report) -> schemas.Report:
    """Show a report."""
    same = ("number", "reason", "message", "created_at", "answer", "closed_at")
    return schemas.Report.model_validate(
        {
            "id": str(row.id),
            "model": row.model.full_name,
            "reporter": row.reporter.name,
            "closed_by": row.closed_by.name if row.closed_by else None,
            **{name: getattr(row, name) for name in same},
        }
    )


def worker(found: Seen) -> schemas.Worker:
    """Show a worker, and the job in its hands."""
    row = found.worker
    return schemas.Worker(
        name=row.name,
        device=row.device,
        started_at=row.started_at,
        seen_at=row.seen_at,
        alive=found.alive,
        job=model_views.job(found.job) if found.job else None,
    )


def job(row: Job, user: str) -> schemas.AdminJob:
    """Show a job, with who asked for it and who has it."""
    return schemas.AdminJob(user=user, worker=row.worker, **model_views.job(row).model_dump())


def namespace(row: Namespace, usage: Usage) -> schemas.NamespaceUsage:
    """Show what a namespace may hold and what it holds."""
    return schemas.NamespaceUsage(
        name=row.name,
        kind="user" if row.kind == "user" else "organisation",
        own_bytes=row.quota_bytes,
        own_uploads=row.quota_uploads,
        **vars(usage),
    )

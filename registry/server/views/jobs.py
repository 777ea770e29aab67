"""Views of jobs."""

import uuid

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import ACTIVE_JOBS, Job
from registry.services.people.actors import Actor
from registry.services.queue import jobs


def job(row: Job, ahead: int | None = None) -> schemas.Job:
    """Return the shape of a job, with the number of jobs queued before it."""
    return schemas.Job.model_validate(
        {
            "id": str(row.id),
            "ahead": ahead,
            **{name: getattr(row, name) for name in schemas.Job.model_fields if name not in ("id", "ahead")},
        }
    )


def queued(session: Session, row: Job) -> schemas.Job:
    """Return a job, and count the jobs queued before it."""
    return job(row, jobs.jobs_ahead(session, row))


def show(session: Session, actor: Actor | None, job_id: uuid.UUID) -> schemas.Job:
    """Return a job that the caller may see, and count the jobs queued before it."""
    return queued(session, jobs.find(session, actor, job_id))


def show_cancellable(session: Session, actor: Actor | None, job_id: uuid.UUID) -> tuple[schemas.Job, bool]:
    """Return what `show` does, and whether the caller may cancel the job."""
    row = jobs.find(session, actor, job_id)
    return queued(session, row), jobs.cancellable(actor, row)


def is_over(found: schemas.Job) -> bool:
    """Return whether a job has ended."""
    return found.state not in ACTIVE_JOBS

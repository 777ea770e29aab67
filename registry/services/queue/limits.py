"""Limits of jobs: how many of a user, and of a model, may be queued or running."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.tables import ACTIVE_JOBS, Job, Namespace, User
from registry.errors import TooMany

JOB_SECONDS = 30  # a job ends by itself, soon


@dataclass(frozen=True)
class JobLimits:
    """Most active jobs of a user and of a model."""

    user_jobs: int
    model_jobs: int


def require_few(session: Session, job: Job, limits: JobLimits) -> None:
    """Refuse a job that was added to this transaction if its user or model has too many.

    A job that was there before is counted already, so asking for it again is not refused.

    Raises:
        TooMany: The user or the model has too many active jobs.
    """
    session.scalars(  # one job of a user at a time
        select(Namespace)
        .join(User, User.name == Namespace.name)
        .where(User.id == job.user_id)
        .with_for_update(key_share=True, of=Namespace)
        .execution_options(populate_existing=True)
    ).one()
    active = select(func.count()).select_from(Job).where(Job.state.in_(ACTIVE_JOBS))
    mine, everybodys = session.execute(
        select(
            active.where(Job.user_id == job.user_id).scalar_subquery(),
            active.where(Job.model == job.model).scalar_subquery(),
        )
    ).one()
    if mine > limits.user_jobs:
        raise TooMany(
            f"You have {mine - 1} jobs queued or running, and {limits.user_jobs} is the most of a user; "
            "wait until some are done, or cancel compositions that you no longer need.",
            retry_after=JOB_SECONDS,
        )
    if everybodys > limits.model_jobs:
        raise TooMany(
            f"{job.model} has {everybodys - 1} jobs queued or running, and {limits.model_jobs} is the most of a "
            "model; wait until some are done.",
            retry_after=JOB_SECONDS,
        )

"""Jobs: rows that workers claim, hold by a lease, and end.

A claim raises `attempt`; every later write of the worker names it. A worker that lost its lease (killed, paused,
cut off) is thereby fenced off: its result is not taken, and another has taken the job up again.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from registry.db.tables import Job, Model, User, now
from registry.errors import Forbidden, NotFound
from registry.services.people import access, paging
from registry.services.people.actors import Actor, record

ACTIVE = ("queued", "running")
STATES = (*ACTIVE, "done", "failed", "cancelled")
CANCELLABLE = {"compose": "composition", "conflicts": "comparison"}
REPEATABLE = (*CANCELLABLE, "rebuild")  # who asked for it can ask again when it failed


class LeaseLost(Exception):
    """Another worker has the job now, or it was ended: drop the work."""


@dataclass(frozen=True)
class Claim:
    """A job in a worker's hands."""

    job_id: uuid.UUID
    attempt: int
    deaths: int
    kind: str
    model: str
    subject: str
    payload: dict[str, Any]


def enqueue(
    session: Session,
    user_id: uuid.UUID,
    kind: str,
    key: str,
    model: Model,
    subject: str,
    payload: dict[str, Any],
    not_worker: str | None = None,
) -> Job:
    """Return the active job with this key, or a new one. The caller holds the lock of what the job is about."""
    job = active(session, key, lock=True)
    if job is not None:
        job.shared = job.shared or job.user_id != user_id
        job.cancel_requested = False  # whoever asks now wants it
        session.flush()
    else:
        job = Job(
            kind=kind,
            key=key,
            model=model.full_name,
            subject=subject,
            payload={"model_id": str(model.id), **payload},
            user_id=user_id,
            not_worker=not_worker,
            attempt=0,
        )
        session.add(job)
        session.flush()
    return job


def active(session: Session, key: str, *, lock: bool = False) -> Job | None:
    """Return the queued or running job with this key, locked when asked."""
    query = select(Job).where(Job.key == key, Job.state.in_(ACTIVE))
    return session.scalar(query.with_for_update() if lock else query)


def find(session: Session, actor: Actor | None, job_id: uuid.UUID) -> Job:
    """Return a job of a model that somebody may see, or of one that is gone since and they asked for.

    Raises:
        NotFound: there is none by that id.
    """
    job = session.get(Job, job_id)
    if job is not None and not (actor and actor.admin):
        model_id = uuid.UUID(job.payload["model_id"])
        if session.get(Model, model_id) is None:
            shown = actor is not None and job.user_id == actor.user_id
        else:
            shown = session.scalar(select(Model.id).where(access.visible(actor), Model.id == model_id)) is not None
        job = job if shown else None
    if job is None:
        raise NotFound("There is no such job.")
    return job


def cancel(session: Session, actor: Actor, job_id: uuid.UUID) -> Job:
    """Cancel a job: at once when queued, at the worker's next heartbeat when running.

    Raises:
        NotFound: there is none by that id.
        Forbidden: it is somebody else's too, or it is a check or an import, which end by themselves.
    """
    find(session, actor, job_id)
    job = session.get_one(Job, job_id, with_for_update=True, populate_existing=True)
    require_cancellable(actor, job)
    if job.state == "queued" or (job.state == "running" and not job.cancel_requested):
        model = session.get(Model, uuid.UUID(job.payload["model_id"]))
        record(session, actor, "job.cancel", f"{job.model} {job.subject}", model, before={"state": job.state})
    if job.state == "queued":
        job.state, job.finished_at = "cancelled", now()
    elif job.state == "running":
        job.cancel_requested = True
    session.flush()
    return job


def require_cancellable(actor: Actor, job: Job) -> None:
    """Refuse to cancel what is not one's own alone, or ends by itself.

    Raises:
        Forbidden: says which.
    """
    if job.user_id != actor.user_id and not actor.admin:
        raise Forbidden("Only who asked for a job, or an admin, may cancel it.")
    if job.kind not in CANCELLABLE:
        raise Forbidden("Only compositions and comparisons can be cancelled; checks and imports end by themselves.")
    if job.shared and not actor.admin:
        what = CANCELLABLE[job.kind]
        raise Forbidden(f"Somebody else has asked for this {what} too; only an admin may cancel it now.")


def cancellable(actor: Actor | None, job: Job) -> bool:
    """Say whether somebody may cancel a job that has not ended."""
    if actor is None or job.state not in ACTIVE or job.cancel_requested:
        return False
    try:
        require_cancellable(actor, job)
    except Forbidden:
        return False
    return True


def jobs_ahead(session: Session, job: Job) -> int | None:
    """Return how many jobs are queued before a queued one."""
    if job.state != "queued":
        return None
    return session.scalar(select(func.count()).where(Job.state == "queued", Job.created_at < job.created_at))


def last_given_up(session: Session, key: str, since: datetime) -> Job | None:
    """Return the newest job with a key that failed or was cancelled, of those asked for since a time."""
    return session.scalar(
        select(Job)
        .where(Job.state.in_(("failed", "cancelled")), Job.created_at >= since, Job.key == key)
        .order_by(Job.created_at.desc())
        .limit(1)
    )


def claim(session: Session, worker: str, lease: timedelta) -> Claim | None:
    """Take the oldest job that nobody holds, or None. Two workers never take the same one."""
    job = session.scalar(
        select(Job)
        .where(
            or_(Job.state == "queued", (Job.state == "running") & (Job.lease_until < now())),
            or_(Job.not_worker.is_(None), Job.not_worker != worker),
        )
        .order_by(Job.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if job is None:
        return None
    job.deaths += job.state == "running"
    job.state, job.worker, job.lease_until = "running", worker, now() + lease
    job.attempt += 1
    job.progress = 0.0
    session.flush()
    return Claim(job.id, job.attempt, job.deaths, job.kind, job.model, job.subject, job.payload)


def hold(session: Session, claim: Claim) -> Job:
    """Return the claimed job, locked, if it is still the worker's.

    Raises:
        LeaseLost: it is not.
    """
    job = session.get(Job, claim.job_id, with_for_update=True, populate_existing=True)
    if job is None or job.state != "running" or job.attempt != claim.attempt:
        raise LeaseLost
    return job


def heartbeat(session: Session, claim: Claim, progress: float, lease: timedelta) -> bool:
    """Extend the lease and write the progress; return whether the job was asked to stop.

    Raises:
        LeaseLost: the job is no longer the worker's.
    """
    job = hold(session, claim)
    job.progress, job.lease_until = progress, now() + lease
    return job.cancel_requested


def end(session: Session, claim: Claim, state: str, error: str | None = None) -> Job:
    """End the job as `done`, `failed` or `cancelled`, in the transaction that publishes its result.

    Raises:
        LeaseLost: the job is no longer the worker's; roll back.
    """
    job = hold(session, claim)
    job.state, job.error, job.finished_at, job.lease_until = state, error, now(), None
    if state == "done":
        job.progress = 1.0
    session.flush()
    return job


def release(session: Session, claim: Claim) -> None:
    """Give a job back unfinished, for a worker that is being stopped; this is no death."""
    job = hold(session, claim)
    job.state, job.lease_until, job.worker = "queued", None, None


def postpone(session: Session, claim: Claim, delay: timedelta) -> None:
    """Let a job be taken up again after a delay, as if its worker had died then."""
    hold(session, claim).lease_until = now() + delay


def listing(
    session: Session, *, state: str | None, kind: str | None, before: str | None, limit: int
) -> tuple[list[tuple[Job, str]], str | None]:
    """Return a page of the jobs of all models, newest first, each with the name of who asked for it.

    Args:
        session: A transaction.
        state: Only those in it.
        kind: Only those of it.
        before: The cursor of the page before.
        limit: Most jobs.

    Returns:
        The jobs, and the cursor of the next page.
    """
    query = select(Job, User.name).join(User, User.id == Job.user_id)
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
    query = paging.newest(query, Job.created_at, Job.id, before, limit)
    found = [(job, name) for job, name in session.execute(query)]
    last = found[limit - 1][0] if len(found) > limit else None
    return found[:limit], paging.write(last.created_at, last.id) if last else None


def count_by_state(session: Session) -> list[tuple[str, str, int]]:
    """Return how many jobs there are, by kind and state."""
    query = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state).order_by(Job.kind, Job.state)
    return [(kind, state, count) for kind, state, count in session.execute(query)]

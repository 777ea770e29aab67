"""Jobs: rows that workers claim, hold by a lease, and end.

A claim raises `attempt`; every later write of the worker names it. A worker that lost its lease (killed, paused,
cut off) is thereby fenced off: its result is discarded, and another worker may have claimed the job.

Workers claim by rank, then by turn, then by age. Checks and imports have the first rank. Within a rank users take
turns: the turn of a job is one more than that of the user's job before it, and at least the one that is being served,
so that a user with one job waits for one job of each other user, however many those have (start-time fair queueing;
Goyal, Vin and Cheng 1996). Turns are given once, when a job is queued, so that claiming reads one row of an index.

A worker leaves jobs that it cannot do (abilities.py). It prefers a job whose base it has at hand to the next one, if
that has the same rank and a near turn, and the next one was not passed over MOST_PASSED times before.
"""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, literal_column, or_, select, tuple_
from sqlalchemy.orm import Session

from registry import tracing
from registry.db.notifications import notify
from registry.db.tables import ACTIVE_JOBS, JOB_KINDS, Job, Model, User, now
from registry.errors import Forbidden, NotFound
from registry.services.people import access, paging
from registry.services.people.actors import Actor, record
from registry.services.queue.abilities import ANY, IS_QUEUED, QUEUED, Ability, bytes_of

IS_ACTIVE = Job.state.in_([literal_column(f"'{state}'") for state in ACTIVE_JOBS])  # as the partial index has it
STATES = (*ACTIVE_JOBS, "done", "failed", "cancelled")
CANCELLABLE = {"compose": "composition", "conflicts": "comparison"}
OTHER_BUILDER = "This waits for another builder: "  # how the error of a rebuild begins that is put off for that
HUNG, HUNG_AT_LAST = "It hung: ", "This job hung on attempt "  # how the error of a job that was killed for it begins
FIRST = ("check", "import")  # short, and people wait for them
LONGEST_DELAY = timedelta(minutes=1)  # after which a job that a worker put off is claimed again
ORDER = (Job.rank, Job.turn, Job.created_at)
QUEUE, QUEUE_OF_KIND = "ix_jobs_state_rank_turn_created_at", "ix_jobs_kind_state_rank_turn_created_at"  # in this order
MOST_PASSED, NEAR_TURNS = 3, 8  # how often a job is passed over, and for jobs of how many later turns
REPEATABLE = (*CANCELLABLE, "rebuild")  # whoever asked for it can ask again when it failed


class LeaseLost(Exception):
    """Another worker has the job now, or the job has ended: drop the work."""


@dataclass(frozen=True)
class Claim:
    """A worker's claim on a job: which job it holds, and which attempt this is."""

    job_id: uuid.UUID
    attempt: int
    deaths: int
    kind: str
    model: str
    subject: str
    payload: dict[str, Any]
    error: str | None = None  # of the attempt before


def enqueue(
    session: Session,
    user_id: uuid.UUID,
    kind: str,
    key: str,
    model: Model,
    subject: str,
    payload: dict[str, Any],
    not_worker: str | None = None,
    more_bytes: int = 0,
) -> Job:
    """Return the active job with this key, or a new one. The caller has locked what the job is about.

    Args:
        session: A writing transaction.
        user_id: Who asks.
        kind: One of the kinds that the table accepts.
        key: Names the work; one job with this key is active at a time.
        model: The model that it is about.
        subject: What it is about, as people write it.
        payload: What the worker needs to know.
        not_worker: The one worker that may not claim it.
        more_bytes: Bytes of the files that it works on beside the model's base.
    """
    job = active(session, key, lock=True)
    if job is not None:
        job.shared = job.shared or job.user_id != user_id
        job.cancel_requested = False  # whoever asks now wants it
        session.flush()
    else:
        rank = 0 if kind in FIRST else 1
        job = Job(
            kind=kind,
            key=key,
            rank=rank,
            turn=next_turn(session, user_id, rank),
            model=model.full_name,
            subject=subject,
            payload={"model_id": str(model.id), **payload, **tracing.carry()},
            user_id=user_id,
            not_worker=not_worker,
            base_digest=model.base_digest,
            bytes=bytes_of(kind, model.size, more_bytes),
            attempt=0,
        )
        session.add(job)
        session.flush()
        notify(session, job.id)
    return job


def next_turn(session: Session, user_id: uuid.UUID, rank: int) -> int:
    """Return the turn of a user's next job: after their last one, and not before the turn that is being served."""

    def bound(turns: Any, *conditions: Any) -> Any:
        return select(func.coalesce(turns, 0)).where(Job.rank == rank, *conditions).scalar_subquery()

    mine = bound(func.max(Job.turn), Job.user_id == user_id, Job.state.in_(ACTIVE_JOBS))
    running = bound(func.max(Job.turn), Job.state == "running")
    waiting = bound(func.min(Job.turn), Job.state == "queued")
    last, served, next_queued = session.execute(select(mine, running, waiting)).one()
    turn: int = max(last, served, next_queued - 1) + 1
    return turn


def active(session: Session, key: str, *, lock: bool = False) -> Job | None:
    """Return the queued or running job with this key, locked when asked."""
    query = select(Job).where(Job.key == key, IS_ACTIVE)
    return session.scalar(query.with_for_update() if lock else query)


def find(session: Session, actor: Actor | None, job_id: uuid.UUID) -> Job:
    """Return a job on a model that the caller may see, or one that they asked for on a model that is deleted since.

    Raises:
        NotFound: No such job exists.
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
        NotFound: No such job exists.
        Forbidden: The job is also another user's, or is a check or an import, which end by themselves.
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
    notify(session, job.id)
    return job


def require_cancellable(actor: Actor, job: Job) -> None:
    """Refuse to cancel a job that is not the caller's alone, or that ends by itself.

    Raises:
        Forbidden: The job is also another user's, or ends by itself; the message says which.
    """
    if job.user_id != actor.user_id and not actor.admin:
        raise Forbidden("Only the user who asked for a job, or an admin, may cancel it.")
    if job.kind not in CANCELLABLE:
        raise Forbidden("Only compositions and comparisons can be cancelled; checks and imports end by themselves.")
    if job.shared and not actor.admin:
        noun = CANCELLABLE[job.kind]
        raise Forbidden(f"Another user has asked for this {noun} too; only an admin may cancel it now.")


def cancellable(actor: Actor | None, job: Job) -> bool:
    """Say whether the caller may cancel a job that has not ended."""
    if actor is None or job.state not in ACTIVE_JOBS or job.cancel_requested:
        return False
    try:
        require_cancellable(actor, job)
    except Forbidden:
        return False
    return True


def jobs_ahead(session: Session, job: Job) -> int | None:
    """Return how many jobs are queued before this one; None if it is not queued."""
    if job.state != "queued":
        return None
    place = tuple_(*ORDER) < tuple_(job.rank, job.turn, job.created_at)
    return session.scalar(select(func.count()).where(Job.state == "queued", place))


def last_given_up(session: Session, key: str) -> Job | None:
    """Return the newest job with this key that failed or was cancelled."""
    return session.scalar(
        select(Job)
        .where(Job.state.in_(("failed", "cancelled")), Job.key == key)
        .order_by(Job.created_at.desc())
        .limit(1)
    )


def claim(session: Session, worker: str, lease: timedelta, ability: Ability = ANY) -> Claim | None:
    """Claim the next job that no worker holds; None if there is none. Two workers never claim the same one."""
    found = [session.scalar(query.with_for_update(skip_locked=True)) for query in claimable(worker, lease, ability)]
    job = min((job for job in found if job), key=lambda job: (job.rank, job.turn, job.created_at), default=None)
    if job is None:
        return None
    preferring = ability.bases and job.base_digest not in ability.bases and job.passed < MOST_PASSED
    if preferring and job.state == "queued":
        preferred = session.scalar(nearby(job, worker, ability).with_for_update(skip_locked=True))
        if preferred is not None:
            job.passed += 1
            job = preferred
    job.deaths += job.state == "running"
    job.state, job.worker, job.lease_until = "running", worker, now() + lease
    job.attempt += 1
    job.progress = 0.0
    session.flush()
    notify(session, job.id)
    return Claim(job.id, job.attempt, job.deaths, job.kind, job.model, job.subject, job.payload, job.error)


def any_claimable(session: Session, worker: str, lease: timedelta, ability: Ability = ANY) -> bool:
    """Say whether there is a job that a worker may claim. This locks nothing: idle workers keep nobody waiting."""
    return any(session.scalar(query) for query in claimable(worker, lease, ability))


def claimable(worker: str, lease: timedelta, ability: Ability = ANY) -> list[Select[Job]]:
    """Return queries for the next queued job of a worker, and for the next whose lease has ended.

    There are so many for each kind, for a worker that does not take all kinds. One that takes small jobs alone reads
    past the large ones in an index, and those of unknown size are another range of it.

    A lease that ends later than any that is given now was given before the clock went back, and its worker has died:
    it would have renewed the lease. All workers of a registry have the same `lease`. Jobs of kinds that this version
    does not know are left to workers of a later one, which may run beside it while a registry is upgraded.
    """
    ended = or_(Job.lease_until < now(), Job.lease_until > latest(lease))
    one = select(Job).where(permitted(worker)).order_by(*ORDER).limit(1)
    queue = QUEUE if ability.kinds is None else QUEUE_OF_KIND
    states = [(queue, and_(Job.state == "running", ended, ability.fits()))]
    if ability.most_bytes is None:
        states.append((queue, Job.state == "queued"))
    else:
        states += [(QUEUED, and_(IS_QUEUED, size)) for size in ability.sizes()]
    kinds = [Job.kind.in_(JOB_KINDS)] if ability.kinds is None else [Job.kind == kind for kind in ability.kinds]
    # So many queries, since each reads one range of an index. By its statistics SQLite may take sorting all jobs for
    # cheaper than reading the first one of it.
    return [
        one.where(kind, state).with_hint(Job, f"INDEXED BY {index}", "sqlite")
        for kind in kinds
        for index, state in states
    ]


def nearby(job: Job, worker: str, ability: Ability) -> Select[Job]:
    """Return the query for the next queued job that is near to another and has a base that a worker has at hand."""
    near = Job.state == "queued", Job.rank == job.rank, Job.turn.between(job.turn, job.turn + NEAR_TURNS)
    mine = Job.kind.in_(ability.kinds or JOB_KINDS), permitted(worker), ability.fits()
    return select(Job).where(*near, *mine, Job.base_digest.in_(ability.bases)).order_by(*ORDER).limit(1)


def permitted(worker: str) -> ColumnElement[bool]:
    """Return the condition for jobs that are not kept from this one worker."""
    return or_(Job.not_worker.is_(None), Job.not_worker != worker)


def latest(lease: timedelta) -> datetime:
    """Return the latest time at which a lease that is given now may end, with room for clocks that differ a little."""
    return now() + lease + LONGEST_DELAY


def hold(session: Session, claim: Claim) -> Job:
    """Return the claimed job, locked, if it is still the worker's; listeners are notified of what becomes of it.

    Raises:
        LeaseLost: The job is no longer the worker's.
    """
    job = session.get(Job, claim.job_id, with_for_update=True, populate_existing=True)
    if job is None or job.state != "running" or job.attempt != claim.attempt:
        raise LeaseLost
    notify(session, job.id)
    return job


def heartbeat(session: Session, claim: Claim, progress: float, lease: timedelta) -> bool:
    """Extend the lease and record the progress; return whether the job was asked to stop.

    Raises:
        LeaseLost: The job is no longer the worker's.
    """
    job = hold(session, claim)
    job.progress, job.lease_until = progress, now() + lease
    return job.cancel_requested


def end(session: Session, claim: Claim, state: str, error: str | None = None) -> Job:
    """End the job as `done`, `failed` or `cancelled`, in the transaction that publishes its result.

    Raises:
        LeaseLost: The job is no longer the worker's; roll back.
    """
    job = hold(session, claim)
    job.state, job.error, job.finished_at, job.lease_until = state, error, now(), None
    if state == "done":
        job.progress = 1.0
    session.flush()
    return job


def release(session: Session, claim: Claim) -> None:
    """Give a job back unfinished, for a worker that is being stopped; this does not count as a death."""
    job = hold(session, claim)
    job.state, job.lease_until, job.worker = "queued", None, None


def postpone(
    session: Session, claim: Claim, delay: timedelta, error: str | None = None, *, counts: bool = True
) -> None:
    """Let a job be claimed again after a delay, a minute at most, as if its worker had died then; `error` says why.

    Unless this `counts`, the job can be postponed for as long as it takes.
    """
    job = hold(session, claim)
    job.deaths -= not counts  # since claiming it again adds one
    job.lease_until, job.error = now() + min(delay, LONGEST_DELAY), error


def listing(
    session: Session, *, state: str | None, kind: str | None, before: str | None, limit: int
) -> tuple[list[tuple[Job, str]], str | None]:
    """Return a page of the jobs of all models, newest first, each with the name of the user who asked for it.

    Args:
        session: A transaction.
        state: Only jobs in this state.
        kind: Only jobs of this kind.
        before: The cursor of the previous page.
        limit: Most jobs of a page.

    Returns:
        The jobs, and the cursor of the next page.
    """
    query = select(Job, User.name).outerjoin(User, User.id == Job.user_id)  # outer, or SQLite begins with the users
    if state is not None:
        query = query.where(Job.state == state)
    if kind is not None:
        query = query.where(Job.kind == kind)
    query = paging.newest(query, Job.created_at, Job.id, before, limit)
    rows = [(job, name) for job, name in session.execute(query)]
    return paging.cut(rows, limit, lambda row: paging.write(row[0].created_at, row[0].id))


def count_by_state(session: Session) -> list[tuple[str, str, int]]:
    """Return how many jobs there are, by kind and state."""
    query = select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state).order_by(Job.kind, Job.state)
    return [(kind, state, count) for kind, state, count in session.execute(query)]


def count_hung(session: Session) -> int:
    """Return how many jobs hung and were killed: those that wait for another attempt, and those that failed by it."""
    hung = or_(*(Job.error.startswith(sentence, autoescape=True) for sentence in (HUNG, HUNG_AT_LAST)))
    return session.scalar(select(func.count()).where(Job.state.in_((*ACTIVE_JOBS, "failed")), hung)) or 0


def count_waiting_rebuilds(session: Session) -> int:
    """Return how many rebuilds are put off until somebody can do them who has no share in what they are to confirm."""
    waiting = Job.kind == "rebuild", Job.state == "running", Job.error.startswith(OTHER_BUILDER, autoescape=True)
    return session.scalar(select(func.count()).where(*waiting)) or 0

"""Workers: each marks itself as seen every few seconds, under the name that its jobs have."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.db.tables import Job, Worker, now

ALIVE_FOR = timedelta(seconds=60)  # after it was last seen; then a worker counts as dead
KEPT_FOR = timedelta(days=1)
MOST_LISTED = 500


@dataclass(frozen=True)
class Seen:
    """A worker, whether it is alive, and the job that it runs."""

    worker: Worker
    alive: bool
    job: Job | None


def is_alive(seen_at: datetime) -> bool:
    """Return whether a worker that was last seen then counts as alive, by a clock that may be somewhat ahead."""
    return abs(now() - seen_at) < ALIVE_FOR


def mark_seen(
    session: Session, name: str, device: str, kinds: Sequence[str] | None = None, most_bytes: int | None = None
) -> None:
    """Record that a worker is alive.

    Args:
        session: A writing transaction.
        name: The worker's name, as in its jobs and builds.
        device: Where it composes: `auto`, `cpu`, `cuda`.
        kinds: The kinds of jobs that it takes; None for all.
        most_bytes: Most bytes of files that a job of it may work on; None for any number.
    """
    row = session.get(Worker, name, with_for_update=True)  # or its row could be deleted meanwhile
    if row is None:
        row = Worker(name=name)
        session.add(row)
    row.device, row.seen_at = device, now()
    row.kinds, row.most_bytes = None if kinds is None else list(kinds), most_bytes
    session.flush()


def forget(session: Session) -> None:
    """Delete the rows of workers that were not seen for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < now() - KEPT_FOR))


def count_by_state(session: Session) -> dict[str, int]:
    """Return how many workers of the last day are idle, busy, or dead; this does not go through all jobs."""
    working = set(session.scalars(select(Job.worker).where(Job.state == "running")))
    states = dict.fromkeys(("idle", "busy", "dead"), 0)
    for name, seen_at in session.execute(select(Worker.name, Worker.seen_at)):
        states[("busy" if name in working else "idle") if is_alive(seen_at) else "dead"] += 1
    return states


def listing(session: Session) -> list[Seen]:
    """Return the workers of the last day, last seen first; a dead one keeps its job until another claims it."""
    query = (
        select(Worker, Job)
        .outerjoin(Job, (Job.worker == Worker.name) & (Job.state == "running"))
        .order_by(Worker.seen_at.desc(), Worker.name, Job.created_at)
        .limit(MOST_LISTED)
    )
    by_name = {worker.name: Seen(worker, is_alive(worker.seen_at), job) for worker, job in session.execute(query)}
    return list(by_name.values())

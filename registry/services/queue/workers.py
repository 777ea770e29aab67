"""Which workers there are: each says every few seconds that it is there, under the name that its jobs have."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from registry.db.tables import Job, Worker, now

ALIVE = timedelta(seconds=60)  # without a word for longer than this, it is taken for dead
FORGOTTEN = timedelta(days=1)
MOST = 500  # in a list


@dataclass(frozen=True)
class Seen:
    """A worker, whether it is alive, and the job in its hands."""

    worker: Worker
    alive: bool
    job: Job | None


def mark_seen(session: Session, name: str, device: str) -> None:
    """Write down that a worker is there.

    Args:
        session: A writing transaction.
        name: As in its jobs and builds.
        device: Where it composes: `auto`, `cpu`, `cuda`.
    """
    row = session.get(Worker, name, with_for_update=True)  # or it could be forgotten meanwhile
    if row is None:
        session.add(Worker(name=name, device=device))
    else:
        row.device, row.seen_at = device, now()
    session.flush()


def forget(session: Session) -> None:
    """Delete the rows of workers that have not been seen for a day."""
    session.execute(delete(Worker).where(Worker.seen_at < now() - FORGOTTEN))


def listing(session: Session) -> list[Seen]:
    """Return the workers of the last day, last seen first; a dead one's job is in its hands until another takes it."""
    query = (
        select(Worker, Job)
        .outerjoin(Job, (Job.worker == Worker.name) & (Job.state == "running"))
        .order_by(Worker.seen_at.desc(), Worker.name, Job.created_at)
        .limit(MOST)
    )
    found = {worker.name: Seen(worker, now() - worker.seen_at < ALIVE, job) for worker, job in session.execute(query)}
    return list(found.values())

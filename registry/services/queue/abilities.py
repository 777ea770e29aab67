"""Abilities: what a worker can do, which jobs that leaves to it, and which jobs no living worker can do."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, or_, select, true
from sqlalchemy.orm import Session

from registry.db.tables import JOB_KINDS, Job, Worker
from registry.errors import InvalidRequest
from registry.services.queue.workers import is_alive

TIMES_THE_BASE = {"compose": 2, "diff": 3, "conflicts": 0}
"""How often a job of a kind has about the bytes of its base: read, sent, or written; once for other kinds."""


@dataclass(frozen=True)
class Ability:
    """What a worker can do.

    Args:
        kinds: The kinds of jobs that it takes; None for all.
        most_bytes: Most bytes of files that a job of it may work on; None for any number.
        bases: Weights digests of bases whose files it has at hand, and whose jobs it prefers.
    """

    kinds: tuple[str, ...] | None = None
    most_bytes: int | None = None
    bases: frozenset[str] = frozenset()

    def fits(self) -> ColumnElement[bool]:
        """Return the condition for jobs that are small enough."""
        return true() if self.most_bytes is None else or_(Job.bytes.is_(None), Job.bytes <= self.most_bytes)


ANY = Ability()


def parse_kinds(text: str) -> tuple[str, ...] | None:
    """Return the kinds of jobs that a text names, separated by commas; None for all if it names none.

    Raises:
        InvalidRequest: It names another one.
    """
    kinds = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for kind in kinds:
        if kind not in JOB_KINDS:
            raise InvalidRequest(
                f"{kind[:40]!r} is not a kind of job; name some of {', '.join(JOB_KINDS)}.", field="jobs"
            )
    return kinds or None


def bytes_of(kind: str, base: int, more: int) -> int | None:
    """Return how many bytes of files a job works on, at most: those of its base, and `more`; None if not known."""
    return TIMES_THE_BASE.get(kind, 1) * base + more or None


def count_unclaimable(session: Session) -> dict[str, int]:
    """Return how many queued jobs no living worker can do, by kind; kinds without such jobs are left out."""
    alive = [worker for worker in session.scalars(select(Worker)) if is_alive(worker.seen_at)]
    waiting = (
        select(Job.kind, Job.not_worker, Job.bytes, func.count())
        .where(Job.state == "queued", Job.kind.in_(JOB_KINDS))
        .group_by(Job.kind, Job.not_worker, Job.bytes)
    )
    counts = dict[str, int]()
    for kind, not_worker, size, count in session.execute(waiting):
        if not _any_can(alive, kind, not_worker, size or 0):
            counts[kind] = counts.get(kind, 0) + count
    return counts


def _any_can(workers: Iterable[Worker], kind: str, not_worker: str | None, size: int) -> bool:
    return any(
        worker.name != not_worker
        and (worker.kinds is None or kind in worker.kinds)
        and (worker.most_bytes is None or size <= worker.most_bytes)
        for worker in workers
    )

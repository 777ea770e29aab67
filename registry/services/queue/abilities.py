"""Abilities: what a worker can do, which jobs that leaves to it, and which jobs no living worker can do."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, false, func, literal_column, not_, or_, select, true
from sqlalchemy.orm import Session

from registry.db.tables import JOB_KINDS, Job, Worker, now
from registry.errors import InvalidRequest
from registry.services.queue.workers import is_alive

IS_QUEUED = Job.state == literal_column("'queued'")  # as the partial index has it, which has the bytes of jobs
QUEUED = "ix_jobs_queued"
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

    def sizes(self) -> list[ColumnElement[bool]]:
        """Return conditions for jobs that are small enough, each of which a range of an index answers."""
        return [true()] if self.most_bytes is None else [Job.bytes.is_(None), Job.bytes <= self.most_bytes]

    def fits(self) -> ColumnElement[bool]:
        """Return the condition for jobs that are small enough."""
        return or_(*self.sizes())


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
    """Return how many jobs wait that no living worker can do, by kind; kinds without such jobs are left out.

    Jobs wait in the queue, or since the worker that had them is gone, or has put them off.
    """
    alike: dict[Ability, set[str]] = {}
    for worker in session.scalars(select(Worker)):
        if is_alive(worker.seen_at):
            ability = Ability(None if worker.kinds is None else tuple(worker.kinds), worker.most_bytes)
            alike.setdefault(ability, set()).add(worker.name)
    kinds = [kind for kind in JOB_KINDS if not any(_all_can(*workers, kind) for workers in alike.items())]
    if not kinds:  # as nearly always: the queue is not looked at then
        return {}
    possible = or_(false(), *(_some_can(*workers) for workers in alike.items()))
    given_up = and_(Job.state == "running", Job.lease_until < now())
    count = select(Job.kind, func.count()).where(Job.kind.in_(kinds), not_(possible)).group_by(Job.kind)
    queued = count.where(IS_QUEUED).with_hint(Job, f"INDEXED BY {QUEUED}", "sqlite")  # it has all that is asked for
    counts = Counter[str]()
    for query in (queued, count.where(given_up)):
        counts.update(dict(session.execute(query).all()))
    return dict(counts)


def _all_can(ability: Ability, names: Collection[str], kind: str) -> bool:
    """Say whether workers can do all jobs of a kind: two of them, since some jobs are not for one of them."""
    return len(names) > 1 and ability.most_bytes is None and kind in (ability.kinds or JOB_KINDS)


def _some_can(ability: Ability, names: Collection[str]) -> ColumnElement[bool]:
    """Return the condition for jobs that one of some workers can do."""
    allowed = true() if len(names) > 1 else or_(Job.not_worker.is_(None), Job.not_worker.not_in(names))
    return and_(Job.kind.in_(ability.kinds or JOB_KINDS), ability.fits(), allowed)

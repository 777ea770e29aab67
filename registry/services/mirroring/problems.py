"""Problems: models of the primary that could not be taken over. They hold up no others, and are tried again later.

taken over <── tried again when due ──┐
     └── something of it is refused ──> set aside: 10 s, 20 s, 40 s … an hour until the next attempt
"""

from collections.abc import Collection
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from registry.db.tables import MirroredRow, MirrorProblem, Model, Namespace, now

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(hours=1)
MAX_CHARACTERS = 1000  # of a problem


def set_aside(session: Session, name: str, problem: str, *, again: bool = True) -> None:
    """Record that a model could not be taken over; if it is here, all of it is read once more when it is due.

    Args:
        session: A writing transaction.
        name: The full name.
        problem: What is wrong.
        again: Whether it was tried; if not, what is known of it already stays.
    """
    row = session.get(MirrorProblem, name)
    if row is not None and not again:
        return
    if row is None:
        row = MirrorProblem(name=name, problem="", attempts=0, retry_at=now())
        session.add(row)
    pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(row.attempts, 20))
    row.problem, row.attempts, row.retry_at = one_line(problem), row.attempts + 1, now() + pause
    space, _, short = name.partition("/")
    here = select(Model.id).join(Namespace, Namespace.id == Model.namespace_id)
    session.execute(
        update(MirroredRow)
        .where(MirroredRow.kind == "model")
        .where(MirroredRow.id.in_(here.where(Namespace.name == space, Model.name == short)))
        .values(complete=False)
    )
    session.flush()


def settle(session: Session, name: str) -> None:
    """Record that a model is here."""
    session.execute(delete(MirrorProblem).where(MirrorProblem.name == name))


def keep(session: Session, names: Collection[str]) -> None:
    """Forget models that the primary does not show, or that are not followed any more."""
    for row in rows(session):
        if row.name not in names:
            session.delete(row)
    session.flush()


def hurry(session: Session) -> None:
    """Have all of them tried again at once."""
    session.execute(update(MirrorProblem).values(retry_at=now()))


def waiting(session: Session) -> set[str]:
    """Return the names of the models that are not due yet."""
    return set(session.scalars(select(MirrorProblem.name).where(MirrorProblem.retry_at > now())))


def next_due(session: Session) -> datetime | None:
    """Return when the next of them is due; None if there are none."""
    return session.scalar(select(func.min(MirrorProblem.retry_at)))


def rows(session: Session) -> list[MirrorProblem]:
    """Return all of them, in the order of their names."""
    return list(session.scalars(select(MirrorProblem).order_by(MirrorProblem.name)))


def one_line(text: str, most: int = MAX_CHARACTERS) -> str:
    """Return the beginning of a stranger's text in one line, whose control characters a terminal does not see."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:most])

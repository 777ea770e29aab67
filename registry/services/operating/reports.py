"""Abuse reports: a user says that a model or patch should not be here; only admins see that.

The log's rows of a report have no model id, so those who may read a model's events, its maintainers and webhooks among
them, do not learn that it was reported, or by whom.
"""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Report, User, now
from registry.errors import NotFound, WrongState
from registry.services.catalog import models, patches
from registry.services.people import paging
from registry.services.people.actors import Actor, record

MOST_OPEN = 20  # reports of one user


def create(session: Session, actor: Actor, full_name: str, number: int | None, reason: str, message: str) -> Report:
    """Report a model or one of its patches; a second report by the same user changes their open one.

    Args:
        session: A writing transaction.
        actor: The caller.
        full_name: `namespace/name`; the caller may see it.
        number: The patch's number; None for the model.
        reason: One of the reasons that the table accepts.
        message: What is wrong.

    Raises:
        NotFound: No such patch exists.
        WrongState: The caller has as many open reports as anybody may have.
    """
    model, about = models.find(session, full_name), full_name
    if number is not None:
        patches.find(session, full_name, number)
        about = f"{full_name}#{number}"
    session.scalar(
        select(User.id).where(User.id == actor.user_id).with_for_update(key_share=True)
    )  # one report of a user at a time
    mine = Report.reporter_id == actor.user_id, Report.closed_at.is_(None)
    row = session.scalar(
        select(Report)
        .where(*mine, Report.model_id == model.id, Report.number.is_not_distinct_from(number))
        .with_for_update()
    )
    if row is None:
        if session.scalars(select(func.count()).select_from(Report).where(*mine)).one() >= MOST_OPEN:
            raise WrongState(
                f"{MOST_OPEN} of your reports are open, the most that you may have; wait until an admin closes one."
            )
        row = Report(model_id=model.id, number=number, reporter_id=actor.user_id, reason=reason, message=message)
        session.add(row)
        session.flush()
        record(session, actor, "report.create", about, after={"report": str(row.id), "reason": reason})
    elif (row.reason, row.message) != (reason, message):
        before = {"report": str(row.id), "reason": row.reason}
        row.reason, row.message = reason, message
        session.flush()
        record(session, actor, "report.update", about, before=before, after=before | {"reason": reason})
    return find(session, row.id)


def close(session: Session, actor: Actor, report_id: uuid.UUID, answer: str) -> Report:
    """Close a report with an answer. Does nothing if it was closed with the same answer.

    Raises:
        NotFound: No such report exists.
        WrongState: The report was closed with another answer.
    """
    session.scalar(select(Report.id).where(Report.id == report_id).with_for_update())
    row = find(session, report_id)
    if row.closed_at is not None:
        if row.answer != answer:
            who = row.closed_by.name if row.closed_by else "somebody"
            raise WrongState(
                f"This report was closed by {who} at {row.closed_at:%Y-%m-%d %H:%M} UTC; its answer cannot be changed."
            )
        return row
    row.answer, row.closed_by_id, row.closed_at = answer, actor.user_id, now()
    session.flush()
    record(session, actor, "report.close", subject(row), after={"report": str(row.id), "answer": answer})
    return find(session, report_id)


def subject(row: Report) -> str:
    """Return what a report is about, `namespace/name` or `namespace/name#3`."""
    return row.model.full_name + ("" if row.number is None else f"#{row.number}")


def listing(session: Session, *, is_open: bool, before: str | None, limit: int) -> tuple[list[Report], str | None]:
    """Return a page of the open reports, or of the closed ones, newest first, and the cursor of the next page."""
    closed = Report.closed_at.is_(None) if is_open else Report.closed_at.is_not(None)
    query = paging.newest(loaded().where(closed), Report.created_at, Report.id, before, limit)
    rows: Sequence[Report] = session.scalars(query).all()
    return paging.cut(rows, limit, lambda report: paging.write(report.created_at, report.id))


def count_open(session: Session) -> int:
    """Return how many reports are open."""
    return session.scalars(select(func.count()).select_from(Report).where(Report.closed_at.is_(None))).one()


def find(session: Session, report_id: uuid.UUID) -> Report:
    """Return a report with its model, reporter and closer.

    Raises:
        NotFound: No such report exists.
    """
    row: Report | None = session.scalar(
        loaded().where(Report.id == report_id).execution_options(populate_existing=True)
    )
    if row is None:
        raise NotFound("There is no such report; see `crumb admin reports`.")
    return row


def loaded() -> Any:
    """Return a query for reports, each with its model, reporter and closer."""
    return select(Report).options(joinedload(Report.model), joinedload(Report.reporter), joinedload(Report.closed_by))

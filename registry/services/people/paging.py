"""Pagination: a query has one row more than a page, which shows whether another page follows; a cursor names the end.

Pages of rows by time, newest first, have cursors of a time and a key.
"""

import re
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Select, Subquery, and_, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from registry.errors import InvalidRequest

CURSOR = r"^[0-9]{1,16}-[0-9a-f]{32}$"  # microseconds of the time, and the key
WINDOW = 1000  # rows that one page goes through where no index can look up a filter; the next page goes on from there
NEAR = 2  # pages that are gone through first, since a planner may sort all it is asked to go through
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Column = InstrumentedAttribute[Any]
Row = TypeVar("Row")
Cursor = TypeVar("Cursor")


def cut(rows: Sequence[Row], limit: int, cursor_of: Callable[[Row], Cursor]) -> tuple[list[Row], Cursor | None]:
    """Return the rows of a page, and the cursor of the next page if there are more rows than `limit`."""
    return list(rows[:limit]), cursor_of(rows[limit - 1]) if len(rows) > limit else None


def rows_within(session: Session, query: Select[Row], number: Column, first: int, limit: int) -> tuple[list[Any], int]:
    """Return rows below a number, with one more than fits on a page, and the number that they were looked for down to.

    At most WINDOW numbers are gone through, and the nearest ones first: where most rows match, that is all.

    Args:
        session: A transaction.
        query: The query for all rows, sorted by the number, the highest first.
        number: The column of the number.
        first: The number that the rows are below.
        limit: Most rows of a page.
    """
    rows: list[Any] = []
    high = first
    for span in (NEAR * (limit + 1), WINDOW):
        low = max(1, first - min(span, WINDOW))
        if len(rows) <= limit and low < high:
            rows += session.scalars(query.where(number < high, number >= low).limit(limit + 1 - len(rows)))
            high = low
    return rows, high


def newest(query: Any, at: Column, key: Column, before: str | None, limit: int) -> Any:
    """Return a query for a page, with one row more than fits, which shows whether another page follows.

    Args:
        query: The query for all rows.
        at: The column of the time that they are sorted by.
        key: The column of their key, which sorts rows of the same time.
        before: The cursor of the previous page; None for the first.
        limit: Most rows of a page.

    Raises:
        InvalidRequest: The cursor is not valid.
    """
    if before is not None:
        moment, last = read(before)
        query = query.where(or_(at < moment, and_(at == moment, key < last)))
    return query.order_by(at.desc(), key.desc()).limit(limit + 1)


def through(
    session: Session,
    entries: Select[Any],
    at: Column,
    key: Column,
    before: str | None,
    limit: int,
    fill: Callable[[Subquery], Any],
) -> tuple[list[Any], str | None]:
    """Return a page of rows by time, newest first, of which the caller may not see all, and the cursor of the next.

    At most WINDOW entries are gone through, visible or not; a page can be short and still be followed by another.

    Args:
        session: A transaction.
        entries: The query for all entries.
        at: The column of their time.
        key: The column of their key.
        before: The cursor of the previous page; None for the first.
        limit: Most rows of a page.
        fill: Makes of a subquery with columns `at` and `key` the query for the rows of a page, without an order.

    Raises:
        InvalidRequest: The cursor is not valid.
    """
    found = entries.with_only_columns(at.label("at"), key.label("key"))
    rows: Sequence[Any] = ()
    last: Any = None
    for span in (NEAR * (limit + 1), WINDOW):  # where most are visible, the first is enough
        ends = newest(found, at, key, before, span - 1).subquery()
        order = ends.c.at.desc(), ends.c.key.desc()
        rows = session.execute(fill(ends).add_columns(ends.c.at, ends.c.key).order_by(*order).limit(limit + 1)).all()
        if len(rows) > limit:
            return cut(rows, limit, lambda row: write(*row[-2:]))
        last = session.execute(select(ends.c.at, ends.c.key).order_by(*order).offset(span - 1).limit(1)).first()
        if last is None:
            return list(rows), None
    return list(rows), write(*last)


def write(at: datetime | int, key: uuid.UUID) -> str:
    """Return the cursor of a row, by its time or a number that is not negative."""
    number = at if isinstance(at, int) else (at - EPOCH) // timedelta(microseconds=1)
    return f"{number}-{key.hex}"


def read(text: str) -> tuple[datetime, uuid.UUID]:
    """Return the time and the key of the row that a cursor names.

    Raises:
        InvalidRequest: The cursor is not valid.
    """
    micros, key = read_number(text)
    return EPOCH + timedelta(microseconds=micros), key


def read_number(text: str) -> tuple[int, uuid.UUID]:
    """Return the number and the key of the row that a cursor names.

    Raises:
        InvalidRequest: The cursor is not valid.
    """
    if not re.fullmatch(CURSOR, text):
        raise InvalidRequest(
            "This is not a valid cursor; give what the previous page returned as `next`.", field="before"
        )
    number, _, key = text.partition("-")
    return int(number), uuid.UUID(key)

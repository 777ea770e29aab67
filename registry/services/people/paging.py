"""Pages of rows by time, newest first: the next one begins where the last row of this one stands."""

import re
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import and_, or_
from sqlalchemy.orm import InstrumentedAttribute

from registry.errors import InvalidRequest

CURSOR = r"^[0-9]{1,16}-[0-9a-f]{32}$"  # microseconds of the time, and the key
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Column = InstrumentedAttribute[Any]


def newest(query: Any, at: Column, key: Column, before: str | None, limit: int) -> Any:
    """Return a query for a page, with one row more than fits: then there is another page.

    Args:
        query: For all rows.
        at: The time that they are sorted by.
        key: Their key, for those of one moment.
        before: The cursor of the page before; None for the first.
        limit: Most rows.

    Raises:
        InvalidRequest: the cursor is none.
    """
    if before is not None:
        moment, last = read(before)
        query = query.where(or_(at < moment, and_(at == moment, key < last)))
    return query.order_by(at.desc(), key.desc()).limit(limit + 1)


def write(at: datetime, key: uuid.UUID) -> str:
    """Return the cursor of a row."""
    return f"{(at - EPOCH) // timedelta(microseconds=1)}-{key.hex}"


def read(text: str) -> tuple[datetime, uuid.UUID]:
    """Return the time and the key of the row that a cursor is of.

    Raises:
        InvalidRequest: it is none.
    """
    if not re.fullmatch(CURSOR, text):
        raise InvalidRequest("A page begins before what the last one gave as `next`.", field="before")
    micros, _, key = text.partition("-")
    return EPOCH + timedelta(microseconds=int(micros)), uuid.UUID(key)

"""Moderation at a mirror: what an admin quarantined or hid here stays so, whatever its primary says of it later.

as the primary says ── an admin takes it down ──> as decided here ── taken back ──> as the primary says by then
"""

import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Uuid, select
from sqlalchemy.orm import Session

from registry.db.tables import Comment, Model, ModeratedRow, Patch, UTCDateTime
from registry.errors import WrongState

KINDS: Mapping[type[Any], str] = {Patch: "patch", Comment: "comment"}
COLUMNS = {
    "patch": ("quarantined_at", "quarantine_reason"),
    "comment": ("hidden_by_id", "hidden_at", "hiding_reason"),
}


def remember(session: Session, model: Model, row: Patch | Comment) -> None:
    """Keep what the primary says of a row, before an admin decides otherwise here; nothing if there is no primary."""
    kind = KINDS[type(row)]
    if model.primary is None or session.get(ModeratedRow, (kind, row.id)) is not None:
        return
    there = {name: write(getattr(row, name)) for name in COLUMNS[kind]}
    session.add(ModeratedRow(kind=kind, id=row.id, there=there))
    session.flush()


def restore(session: Session, model: Model, row: Patch | Comment) -> bool:
    """Take back what an admin decided here; return False if there is no primary to say how it is then.

    Raises:
        WrongState: The primary has taken it down.
    """
    if model.primary is None:
        return False
    kind = KINDS[type(row)]
    kept = session.get(ModeratedRow, (kind, row.id))
    if kept is None:
        raise WrongState(f"This was decided at {model.primary}, and can be taken back only there.")
    for name in COLUMNS[kind]:
        setattr(row, name, read(type(row), name, kept.there[name]))
    session.delete(kept)
    session.flush()
    return True


def overrule(session: Session, table: type[Patch | Comment], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows as they are to be here, given what the primary says, which is kept for those decided otherwise.

    They are locked first, so that what an admin decides meanwhile is seen, or waits.
    """
    keys = [row["id"] for row in rows]
    session.scalars(select(table.id).where(table.id.in_(keys)).order_by(table.id).with_for_update()).all()
    decided = kept_of(session, table, keys)
    answer = []
    for values in rows:
        if (kept := decided.get(values["id"])) is not None:
            kept.there = {name: write(values[name]) for name in kept.there}
            here = session.get_one(table, kept.id)
            values = {**values, **{name: getattr(here, name) for name in kept.there}}
        answer.append(values)
    session.flush()
    return answer


def kept_of(session: Session, table: type[Any], keys: Iterable[uuid.UUID]) -> dict[uuid.UUID, ModeratedRow]:
    """Return what is kept of those rows of a table that were decided here, by their keys."""
    query = select(ModeratedRow).where(ModeratedRow.kind == KINDS[table], ModeratedRow.id.in_(list(keys)))
    return {row.id: row for row in session.scalars(query)}


def write(value: Any) -> str | None:
    """Return the value of a column as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return None if value is None else str(value)


def read(table: type[Any], name: str, value: str | None) -> Any:
    """Return the value of a column that `write` wrote."""
    kind = table.__table__.c[name].type
    if value is None or not isinstance(kind, Uuid | UTCDateTime):
        return value
    return uuid.UUID(value) if isinstance(kind, Uuid) else datetime.fromisoformat(value)

"""The base of all tables: UTC times, a name for every constraint, enums as text with a CHECK, sealed rows."""

import uuid
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from sqlalchemy import JSON, CheckConstraint, DateTime, Dialect, MetaData, TypeDecorator, Uuid, event, inspect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


def now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


def after(earlier: datetime | None) -> datetime:
    """Return the current time, or the next microsecond after an earlier time if the clock has gone back since.

    For rows of which the newest counts.
    """
    return now() if earlier is None else max(now(), earlier + timedelta(microseconds=1))


class UTCDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time on every database (SQLite keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC; refuse naive times."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"The time {value} has no time zone.")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UTCDateTime,
        uuid.UUID: Uuid,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[int]: JSON,
        list[Any]: JSON,
    }


def key() -> Mapped[uuid.UUID]:
    """Declare a UUID primary key."""
    return mapped_column(primary_key=True, default=uuid.uuid4)


def one_of(column: str, *values: str) -> CheckConstraint:
    """Declare the CHECK that a text column has one of these values."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def seal(table: type[Table], changing: Collection[str], closed: Callable[[Any], bool]) -> None:
    """Refuse every update of a closed row, except of some columns.

    Args:
        table: The table.
        changing: Names of the columns that may still change.
        closed: Says whether a row is closed, given its attributes as they were read.
    """

    @event.listens_for(table, "before_update")
    def refuse(_mapper: object, _connection: object, row: Any) -> None:
        attributes = inspect(row).mapper.column_attrs
        histories = {attribute.key: inspect(row).attrs[attribute.key].history for attribute in attributes}
        replaced = {name: history.deleted[0] for name, history in histories.items() if history.deleted}
        changed = {name for name, history in histories.items() if history.has_changes()} - set(changing)
        before = {name: replaced.get(name, getattr(row, name)) for name in histories}
        if changed and closed(before):
            key = "/".join(map(str, inspect(row).identity))
            raise ValueError(f"{table.__tablename__} {key} is closed; {', '.join(sorted(changed))} must not change")

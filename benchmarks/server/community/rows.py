"""Rows on their way into a database, inserted in bulk."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import JSON, Connection

from registry.db import tables

START = datetime(2026, 1, 1, tzinfo=UTC)
AT_ONCE = 20_000  # rows


def hurry(connection: Connection) -> None:
    """Let a connection insert without the checks that its rows are known to pass, and SQLite in more memory."""
    settings = ["PRAGMA foreign_keys=OFF", "PRAGMA synchronous=OFF", "PRAGMA cache_size=-1000000"]
    if connection.dialect.name == "postgresql":
        settings = ["SET session_replication_role = replica", "SET synchronous_commit = off"]
    cursor = connection.connection.cursor()
    for setting in settings:
        cursor.execute(setting)
    connection.connection.commit()


class Rows:
    """Rows on their way into a database."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.copies = connection.dialect.name == "postgresql"

    def add(self, table: type[tables.Table], rows: Iterable[dict[str, Any]]) -> None:
        """Insert rows, each with the same columns; a column that is left out gets its default."""
        pending = iter(rows)
        while chunk := list(islice(pending, AT_ONCE)):
            self.insert(table, chunk)

    def insert(self, table: type[tables.Table], rows: list[dict[str, Any]]) -> None:
        """Insert some rows in one statement: the driver's own, since SQLAlchemy's takes several times as long."""
        made = table.__table__
        columns = [column for column in made.columns if column.name in rows[0] or column.default is not None]
        convert = [self.converter(column) for column in columns]
        left_out = {column.name: column.default for column in columns if column.name not in rows[0]}
        defaults = {name: each.arg(None) if each.is_callable else each.arg for name, each in left_out.items()}
        values = (
            [turn({**defaults, **row}[column.name]) for column, turn in zip(columns, convert, strict=True)]
            for row in rows
        )
        names = ", ".join(f'"{column.name}"' for column in columns)
        cursor = self.connection.connection.cursor()
        if self.copies:
            with cursor.copy(f"COPY {made.name} ({names}) FROM STDIN") as copy:
                for one in values:
                    copy.write_row(one)
        else:
            marks = ", ".join("?" * len(columns))
            cursor.executemany(f"INSERT INTO {made.name} ({names}) VALUES ({marks})", values)  # noqa: S608

    def converter(self, column: Any) -> Any:
        """Return what turns a value of a column into what the driver takes."""
        if isinstance(column.type, JSON):
            return json.dumps
        turn = (
            None
            if self.copies
            else column.type.dialect_impl(self.connection.dialect).bind_processor(self.connection.dialect)
        )
        plain = turn or (lambda value: value)
        return lambda value: plain(START if callable(value) else value)

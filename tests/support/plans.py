"""Plans: how a database does the statements that some code asks of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event

Asked = list[tuple[str, Any]]


@contextmanager
def statements_asked(engine: Engine) -> Iterator[Asked]:
    """Yield a list of the statements that are asked meanwhile, each with its parameters."""
    asked: Asked = []
    listen = "before_cursor_execute", lambda _c, _d, statement, given, *_: asked.append((statement, given))
    event.listen(engine, *listen)
    try:
        yield asked
    finally:
        event.remove(engine, *listen)


def explain(engine: Engine, asked: Asked, part: str) -> list[tuple[str, Any]]:
    """Return the plan of each statement that has this part, with its parameters."""
    begin = "EXPLAIN " if engine.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN "
    plans = []
    with engine.connect() as connection:
        for statement, given in asked:
            if part in statement:
                rows = connection.exec_driver_sql(begin + statement, given)
                plans.append((" ".join(str(value) for row in rows for value in row), given))
    return plans

"""Locks of PostgreSQL that all machines share: the database releases them when their holder dies."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError


@contextmanager
def holding(engine: Engine, name: str, shared: bool, wait: bool) -> Iterator[bool]:
    """Hold a lock, on a connection of its own; yield whether it was taken.

    Args:
        engine: A PostgreSQL database, which has locks of its own.
        name: The name of the lock.
        shared: Whether others may hold it too, if they also share it.
        wait: Whether to wait until the lock is free.
    """
    number = number_of(name)
    mode = "_shared" if shared else ""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if wait:
            connection.execute(text(f"SELECT pg_advisory_lock{mode}(:number)"), {"number": number})
            taken = True
        else:
            taken = bool(connection.scalar(text(f"SELECT pg_try_advisory_lock{mode}(:number)"), {"number": number}))
        try:
            yield taken
        finally:
            if taken:
                try:
                    connection.execute(text(f"SELECT pg_advisory_unlock{mode}(:number)"), {"number": number})
                except DBAPIError:  # the connection is lost, and the lock with it; what was done meanwhile is done
                    connection.invalidate()


def number_of(name: str) -> int:
    """Return the number by which PostgreSQL knows a lock."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)

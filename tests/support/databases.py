"""Databases for tests: copies of one that the migrations built, dropped when they have been used."""

import os
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy

from registry.db.session import Database, migrate
from tests.support.shared import make_once


def migrated_file() -> Path:
    """Return a SQLite database that the migrations built, once for all processes of the tests."""
    return make_once("migrated", lambda folder: migrate(f"sqlite:///{folder / 'registry.db'}")) / "registry.db"


def seed(data: Path) -> None:
    """Put a migrated database into the data folder of a registry that is not there yet: migrating takes a second."""
    if not data.exists():
        data.mkdir(mode=0o700, parents=True)
        shutil.copyfile(migrated_file(), data / "registry.db")


class Databases:
    """Databases of one server.

    Args:
        url: The SQLAlchemy URL of a database there, from which others may be created.
    """

    def __init__(self, url: str) -> None:
        self.url = sqlalchemy.make_url(url)
        self.engine = sqlalchemy.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
        self.names: set[str] = set()

    def create(self, template: str | None = None) -> str:
        """Create a database, as a copy of another where its URL is given; return its URL.

        Its name tells the test that it is for, since a connection that is left open is found during a later one.
        """
        borrower = re.match(r"\w*", os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2], re.ASCII)
        told = borrower[0].lower() if borrower else ""
        name = f"test_{uuid.uuid4().hex[:12]}_{told}"[:60]  # two test processes may share a server
        copied = f" TEMPLATE {sqlalchemy.make_url(template).database} STRATEGY FILE_COPY" if template else ""
        self.run(f"CREATE DATABASE {name}{copied}")
        self.names.add(name)
        return self.url.set(database=name).render_as_string(hide_password=False)

    @contextmanager
    def lent(self, template: str | None = None) -> Iterator[str]:
        """Lend the URL of a new database for a while."""
        url = self.create(template)
        try:
            yield url
        finally:
            self.drop(str(sqlalchemy.make_url(url).database))

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self.names.discard(name)

    def drop_all(self) -> None:
        """Drop what is left."""
        for name in list(self.names):
            self.drop(name)

    def run(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(statement)


def await_lock(database: Database, thread: threading.Thread) -> None:
    """Wait until another transaction in a PostgreSQL database waits for a lock, or a thread has ended."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.engine.connect() as connection:
        while thread.is_alive() and not connection.scalar(sqlalchemy.text(query)):
            connection.rollback()

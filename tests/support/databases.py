"""PostgreSQL databases for tests: copies of a template, dropped when they have been used."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy


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
        """Create a database, as a copy of another where its URL is given; return its URL."""
        name = f"test_{uuid.uuid4().hex}"  # two test processes may share a server
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

"""Database sessions: the engine, transactions (with the only commit), and migrations.

SQLite runs in WAL mode with `synchronous=FULL` (NORMAL loses acknowledged rows at a power cut) and foreign keys on.
Every writing transaction begins IMMEDIATE: a deferred one fails at its first write if another writer was faster,
however long the busy timeout.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from registry.db.audit import append_pending
from registry.db.turns import Turns
from registry.errors import StorageFull, Unavailable, WrongState

RECONNECT_SECONDS = 600  # a connection of SQLite reads the statistics once, when it opens
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000")


def make_engine(url: str) -> Engine:
    """Return an engine for SQLite or PostgreSQL, set up as described above."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=40)
    engine = create_engine(url, pool_size=10, max_overflow=40, pool_recycle=RECONNECT_SECONDS)

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # turns off the driver's own BEGIN; ours is below
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get("reading", False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


@cache
def turns_of(database: str) -> Turns:
    """Return the turns of a SQLite file in this process, in which a server and a worker may each have opened it."""
    return Turns()


@dataclass(frozen=True)
class Database:
    """A database, which opens transactions."""

    engine: Engine

    @cached_property
    def turns(self) -> Turns | None:
        """The turns of those who write to the same SQLite file in this process; PostgreSQL needs none."""
        return turns_of(str(self.engine.url)) if self.engine.dialect.name == "sqlite" else None

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Run one writing transaction: append its audit events and commit at the end, roll back on any error."""
        with (
            self.turns.take() if self.turns else nullcontext(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session
            append_pending(session)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Run one reading transaction, which never waits for a writer and sees one state of the database."""
        options = {"isolation_level": "REPEATABLE READ"} if self.engine.dialect.name == "postgresql" else {}
        with Session(self.engine.execution_options(reading=True, **options), expire_on_commit=False) as session:
            yield session


@contextmanager
def reaching_database() -> Iterator[None]:
    """Turn an error of the database into a sentence.

    Raises:
        StorageFull: Its disk is full.
        Unavailable: It does not answer, or failed in another way.
    """
    try:
        yield
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split()).rstrip(".")
        if is_full(error):
            raise StorageFull(
                f"The disk of the database is full, or fails: {reason}. Free some space, or run `crumb-server gc`."
            ) from error
        verb, step = (
            ("does not answer", "Check DATABASE_URL.") if isinstance(error, OperationalError) else ("failed", "")
        )
        raise Unavailable(f"The database {verb}: {reason}. {step}".rstrip()) from error


def is_full(error: DBAPIError) -> bool:
    """Say whether an error of the database is that of a full disk; SQLite's I/O error often is one."""
    return any(words in str(error.orig) for words in ("disk is full", "disk I/O error", "No space left"))


def open_database(url: str) -> Database:
    """Return the database at a SQLAlchemy URL."""
    return Database(make_engine(url))


def migrations_config(url: str) -> Config:
    """Return Alembic's configuration, wherever the migrations are installed."""
    package = Path(__file__).parents[1]
    folder = package / "migrations"
    config = Config()
    config.set_main_option("script_location", str(folder if folder.is_dir() else package.parent / "migrations"))
    config.attributes["url"] = url
    return config


def migrate(url: str, revision: str = "head") -> None:
    """Bring the database to a migration; processes that do so at once take turns."""
    with reaching_database():
        command.upgrade(migrations_config(url), revision)


@cache
def newest_migration() -> str | None:
    """Return the revision of the newest migration, read once."""
    return ScriptDirectory.from_config(migrations_config("")).get_current_head()


def require_head(database: Database, url: str) -> None:
    """Refuse a database that is not at the newest migration.

    Raises:
        WrongState: The database is at another migration; the message says what to run.
    """
    head = newest_migration()
    with reaching_database(), database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != head:
        raise WrongState(
            f"The database is at migration {current or 'none'}, not at {head} as needed; run `crumb-server migrate`."
        )

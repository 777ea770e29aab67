"""Database sessions: the engine, transactions (with the only commit), and migrations.

SQLite runs in WAL mode with `synchronous=FULL` (NORMAL loses acknowledged rows at a power cut) and foreign keys on.
Every writing transaction begins IMMEDIATE: a deferred one fails at its first write if another writer was faster,
however long the busy timeout.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, FromClause, create_engine, event, make_url
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from registry.db.audit import append_pending
from registry.db.notifications import Notifications
from registry.db.turns import Turns
from registry.errors import StorageFull, Unavailable, WrongState

RECONNECT_SECONDS = 600  # a connection of SQLite reads the statistics once, when it opens
KEPT = ContextVar[list[Session] | None]("kept", default=None)  # a reading transaction for the next one to go on with
KEEPALIVES = {"keepalives_idle": 60, "keepalives_interval": 15, "keepalives_count": 4}  # seconds, seconds, times
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=30000")


class CompilerWithHints(SQLiteCompiler):
    """Writes what `with_hint` says after the name of a table, where SQLite has its INDEXED BY."""

    def get_from_hint_text(self, table: FromClause, text: str | None) -> str | None:
        """Return what follows a table's name."""
        return text


def make_engine(url: str) -> Engine:
    """Return an engine for SQLite or PostgreSQL, set up as described above."""
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=50, connect_args=keeping_alive(url))
    engine = create_engine(url, pool_size=10, max_overflow=50, pool_recycle=RECONNECT_SECONDS)
    engine.dialect.statement_compiler = CompilerWithHints

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # turns off the driver's own BEGIN; ours is below
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get("reading", False):
            connection.connection.cursor().execute("BEGIN")  # takes no lock, so that it cannot fail
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def keeping_alive(url: str) -> dict[str, int]:
    """Return how connections to PostgreSQL are kept alive, unless the URL says it.

    One that holds a lock may be silent for hours, and firewalls end what is silent for some minutes.
    """
    return {name: value for name, value in KEEPALIVES.items() if name not in make_url(url).query}


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

    @cached_property
    def notifications(self) -> Notifications:
        """Who is to be called after commits."""
        return Notifications(self.engine)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Run one writing transaction: append its audit events and commit at the end, roll back on any error.

        Notifications of the transaction are delivered once it is committed.
        """
        close_kept()
        with (
            self.turns.take() if self.turns else nullcontext(),
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session
            subjects = self.notifications.send(session)
            append_pending(session)
        self.notifications.deliver(subjects)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Run one reading transaction, which never waits for a writer and sees one state of the database."""
        kept = KEPT.get()
        session = kept.pop() if kept else Session(self.reader, expire_on_commit=False, info={"seen": {}})
        try:
            yield session
        except BaseException:
            session.close()
            raise
        if kept is None:
            session.close()
        else:
            kept.append(session)

    @cached_property
    def reader(self) -> Engine:
        """The engine of reading transactions."""
        options = {"isolation_level": "REPEATABLE READ"} if self.engine.dialect.name == "postgresql" else {}
        return self.engine.execution_options(reading=True, **options)


def seen(session: Session) -> dict[str, Any]:
    """Return what a reading transaction has found, so that nothing is looked up twice: models by name, roles by pair.

    That of a writing transaction is empty, since it may change what it has found.
    """
    found: dict[str, Any] = session.info.get("seen", {})
    return found


@contextmanager
def one_reading() -> Iterator[None]:
    """Let what this task or thread reads one after the other be one reading transaction, until it writes."""
    token = KEPT.set([])
    try:
        yield
    finally:
        close_kept()
        KEPT.reset(token)


def close_kept() -> None:
    """Close the reading transaction that the next one would go on with."""
    kept = KEPT.get()
    while kept:
        kept.pop().close()


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
        if is_read_only(error):
            raise Unavailable(f"The database cannot be written: {reason}. Make its disk writable again.") from error
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


def is_read_only(error: DBAPIError) -> bool:
    """Say whether the database can be read, and not written: its disk is read-only, or it is a standby."""
    return any(words in str(error.orig) for words in ("readonly database", "read-only transaction"))


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


def migrate(url: str, revision: str = "head") -> str | None:
    """Bring the database to a migration; processes that do so at once take turns.

    Returns:
        The migration that it was at before; None if it was empty.

    Raises:
        WrongState: The database is newer than this program.
        StorageFull, Unavailable: The database failed.
    """
    with reaching_database():
        engine = make_engine(url)
        try:
            require_known(before := current_migration(engine))
        finally:
            engine.dispose()
        command.upgrade(migrations_config(url), revision)
    return before


def current_migration(engine: Engine) -> str | None:
    """Return the migration that a database is at; None if it is empty."""
    with engine.execution_options(reading=True).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def require_known(migration: str | None) -> None:
    """Refuse a migration of a later version.

    Raises:
        WrongState: This program does not have the migration.
    """
    if migration not in (None, *known_migrations()):
        raise WrongState(
            f"The database is newer than this crumb-server: it is at migration {migration}, which this version does "
            "not have. Install the version that wrote it, or a later one; or restore a backup that this one wrote."
        )


@cache
def known_migrations() -> frozenset[str]:
    """Return the revisions of all migrations, read once."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(migrations_config("")).walk_revisions())


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
    with reaching_database():
        current = current_migration(database.engine)
    require_known(current)
    if current != head:
        raise WrongState(
            f"The database is at migration {current or 'none'}, not at {head} as needed; run `crumb-server migrate`."
        )

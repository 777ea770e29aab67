"""Run migrations on the database that the caller names, or that of the settings."""

from alembic import context
from sqlalchemy import Engine, text

from registry.db.session import make_engine
from registry.db.tables import Table, UTCDateTime
from registry.settings import Settings


def render_item(kind: str, item: object, _context: object) -> str | bool:
    """Write our types as the database types they are, so that a migration imports none of our code."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UTCDateTime) else False


def run() -> None:
    url = context.config.attributes.get("url") or Settings().database
    engine = make_engine(url)
    try:
        migrate(engine)
    finally:
        engine.dispose()  # and with the connection, the lock goes


def migrate(engine: Engine) -> None:
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            # Two servers that start together take turns; a migration that cannot get its locks fails early.
            connection.execute(text("SELECT pg_advisory_lock(7274727970)"))
            connection.execute(text("SET lock_timeout = '4s'"))
            connection.commit()
        else:
            # A table that is rebuilt is dropped, and with it would go whatever refers to its rows.
            connection.connection.execute("PRAGMA foreign_keys=OFF")  # past SQLAlchemy, before a transaction begins
        context.configure(
            connection=connection,
            target_metadata=Table.metadata,
            render_as_batch=True,
            render_item=render_item,
            compare_server_default=True,
            transaction_per_migration=False,
        )
        with context.begin_transaction():
            context.run_migrations()
            if connection.dialect.name == "sqlite" and connection.execute(text("PRAGMA foreign_key_check")).first():
                raise RuntimeError("The migration left rows that refer to nothing; the database is as it was before.")
        connection.commit()


run()

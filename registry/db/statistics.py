"""Statistics of the tables, by which a database chooses its plans; without them SQLite walks whole models."""

from sqlalchemy import text

from registry.db.session import Database
from registry.db.tables import Table

ROWS_OF_AN_INDEX = 1000  # that SQLite reads
STALE = text(
    "SELECT relname FROM pg_stat_user_tables WHERE schemaname = current_schema()"
    " AND n_mod_since_analyze > 1000 + n_live_tup / 10"
)


def refresh(database: Database) -> None:
    """Renew the statistics: of all tables from a sample on SQLite, of those that changed much on PostgreSQL."""
    if database.engine.dialect.name == "postgresql":
        with database.read() as session:
            stale = set(session.scalars(STALE)) & set(Table.metadata.tables)
        for name in sorted(stale):
            with database.write() as session:
                session.execute(text(f"ANALYZE {name}"))
        return
    with database.write() as session:
        session.execute(text(f"PRAGMA analysis_limit = {ROWS_OF_AN_INDEX}"))
        session.execute(text("ANALYZE"))

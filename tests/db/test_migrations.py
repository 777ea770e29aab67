from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from registry.db.session import make_engine, migrate, migrations_config, open_database, require_head
from registry.db.tables import Table
from registry.errors import WrongState


def tables(url: str) -> set[str]:
    engine = make_engine(url)
    found = set(inspect(engine).get_table_names())
    engine.dispose()
    return found


def test_there_is_one_line_of_migrations(tmp_path: Path) -> None:
    script = ScriptDirectory.from_config(migrations_config("sqlite://"))
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


def test_migrations_make_what_the_models_say(database_url: str) -> None:
    migrate(database_url)
    engine = make_engine(database_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    engine.dispose()


def test_every_check_and_index_of_the_models_is_in_the_database(database_url: str) -> None:
    """Autogenerate does not compare CHECK constraints, so they are compared here."""
    migrate(database_url)
    engine = make_engine(database_url)
    inspector = inspect(engine)
    for table in Table.metadata.sorted_tables:
        mine = {str(check.name) for check in table.constraints if type(check).__name__ == "CheckConstraint"}
        assert mine == {check["name"] for check in inspector.get_check_constraints(table.name)}, table.name
        indexes = {index.name for index in table.indexes}
        assert indexes <= {index["name"] for index in inspector.get_indexes(table.name)}, table.name
    engine.dispose()


def test_migrations_go_down_and_up_again(database_url: str) -> None:
    migrate(database_url)
    there = tables(database_url)
    assert "patches" in there
    command.downgrade(migrations_config(database_url), "base")
    assert tables(database_url) <= {"alembic_version"}
    migrate(database_url)
    assert tables(database_url) == there


def test_migrating_twice_changes_nothing(database_url: str) -> None:
    migrate(database_url)
    before = tables(database_url)
    migrate(database_url)
    assert tables(database_url) == before


def test_a_database_at_another_migration_is_refused_with_the_command(database_url: str) -> None:
    database = open_database(database_url)
    with pytest.raises(WrongState, match="crumb-server migrate"):
        require_head(database, database_url)
    migrate(database_url)
    require_head(database, database_url)
    database.engine.dispose()


def test_sqlite_is_set_up_to_keep_what_it_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'r.db'}"
    migrate(url)
    database = open_database(url)
    with database.write() as session:
        connection = session.connection()
        read = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
        assert read == {"journal_mode": "wal", "synchronous": 2}
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.engine.dispose()

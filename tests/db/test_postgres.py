"""The test databases themselves."""

import sqlalchemy


def rows(url: str) -> list[str]:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect():
        return sqlalchemy.inspect(engine).get_table_names()


def test_an_empty_database_is_empty(database_url: str) -> None:
    assert rows(database_url) == []


def test_a_migrated_database_has_tables(migrated_url: str) -> None:
    assert {"users", "patches", "jobs"} <= set(rows(migrated_url))


def test_each_test_has_a_database_of_its_own(migrated_url: str, database_kind: str) -> None:
    engine = sqlalchemy.create_engine(migrated_url, poolclass=sqlalchemy.NullPool)
    assert engine.dialect.name == database_kind
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT count(*) FROM users")) == 0

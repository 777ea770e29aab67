import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, Uuid, func, insert, inspect, select
from sqlalchemy.orm import Session

from registry.db.session import make_engine, migrate, migrations_config, open_database, require_head
from registry.db.tables import (
    CardProposal,
    Comment,
    Composition,
    Job,
    Model,
    Namespace,
    Patch,
    PatchRevision,
    Recipe,
    Table,
    User,
)
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


def test_migrations_make_what_the_models_say(migrated_url: str) -> None:
    engine = make_engine(migrated_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    engine.dispose()


def test_every_check_and_index_of_the_models_is_in_the_database(migrated_url: str) -> None:
    """Autogenerate does not compare CHECK constraints, so they are compared here."""
    engine = make_engine(migrated_url)
    inspector = inspect(engine)
    for table in Table.metadata.sorted_tables:
        mine = {str(check.name) for check in table.constraints if type(check).__name__ == "CheckConstraint"}
        assert mine == {check["name"] for check in inspector.get_check_constraints(table.name)}, table.name
        indexes = {index.name for index in table.indexes}
        assert indexes <= {index["name"] for index in inspector.get_indexes(table.name)}, table.name
    engine.dispose()


def test_migrations_go_down_and_up_again(migrated_url: str) -> None:
    there = tables(migrated_url)
    assert "patches" in there
    command.downgrade(migrations_config(migrated_url), "base")
    assert tables(migrated_url) <= {"alembic_version"}
    migrate(migrated_url)
    assert tables(migrated_url) == there


def test_cards_that_were_talked_about_go_with_what_was_said(migrated_url: str) -> None:
    database = open_database(migrated_url)
    with database.write() as session:
        user, space = User(name="carol"), Namespace(name="carol", skeleton="carol", kind="user")
        session.add_all([user, space])
        session.flush()
        model = Model(namespace_id=space.id, name="m", creator_id=user.id, state="ready", visibility="public", size=1)
        session.add(model)
        session.flush()
        patch = Patch(model_id=model.id, number=1, author_id=user.id, state="proposed", revision=0)
        session.add(patch)
        session.flush()
        session.add(CardProposal(patch_id=patch.id, title="t", message="", card="# New", commit="a" * 40))
        session.add(Comment(patch_id=patch.id, author_id=user.id, message="Good."))
    database.engine.dispose()
    command.downgrade(migrations_config(migrated_url), "8e15c0d2b7f4")
    engine = make_engine(migrated_url)
    with engine.connect() as connection:
        counts = [
            connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar() for name in ("patches", "comments")
        ]
    engine.dispose()
    assert counts == [0, 0]


def test_migrating_twice_changes_nothing(migrated_url: str) -> None:
    before = tables(migrated_url)
    migrate(migrated_url)
    assert tables(migrated_url) == before


def test_a_database_at_another_migration_is_refused_with_the_command(database_url: str) -> None:
    database = open_database(database_url)
    with pytest.raises(WrongState, match="crumb-server migrate"):
        require_head(database, database_url)
    migrate(database_url)
    require_head(database, database_url)
    database.engine.dispose()


def test_a_database_of_a_later_version_is_refused_with_a_sentence_and_left_alone(migrated_url: str) -> None:
    database = open_database(migrated_url)
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'from2030'")
    for use in (lambda: migrate(migrated_url), lambda: require_head(database, migrated_url)):
        with pytest.raises(WrongState, match=r"newer than this crumb-server.*from2030.*Install the version"):
            use()
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


def test_compositions_of_before_count_for_whoever_had_them_composed_and_nothing_is_lost(database_url: str) -> None:
    """Tables that are rebuilt keep their rows and those that refer to them."""
    migrate(database_url, "8e41c07d2b6a")
    engine = make_engine(database_url)
    metadata, at = MetaData(), datetime(2026, 1, 1, tzinfo=UTC)
    metadata.reflect(engine)
    user, model, composition, patch, revision = (uuid.uuid4() for _ in range(5))
    people = {"id": user, "name": "carol", "is_admin": False, "is_active": True}
    space = {"id": uuid.uuid4(), "name": "carol", "skeleton": "carol", "kind": "user"}
    tiny = {"id": model, "namespace_id": space["id"], "name": "tiny", "creator_id": user, "visibility": "public"}
    tiny |= {"min_approvals": 1, "required_evaluations": [], "state": "ready", "by_reference": False, "dtypes": {}}
    recipe = {"digest": "a" * 64, "base_digest": "b" * 71, "alpha": "1"}
    result = {"id": composition, "model_id": model, "recipe_digest": "a" * 64, "weights_digest": "c" * 71}
    job = {"id": uuid.uuid4(), "kind": "compose", "key": f"compose:{model}:{'a' * 64}", "state": "done"}
    job |= {"model": "carol/tiny", "subject": "a" * 64, "payload": {}, "user_id": user, "progress": 1.0, "attempt": 1}
    texts = {"number": 1, "state": "checked", "title": "t", "message": "", "size": 1}
    rows: dict[str, dict[str, Any]] = {
        "users": people,
        "namespaces": space,
        "models": {**tiny, "size": 1, "patch_count": 1, "modified_at": at},
        "recipes": recipe,
        "blobs": {"sha256": "d" * 64, "size": 7, "state": "live", "leased_until": at},
        "compositions": {**result, "commit": "e" * 40, "device": "cpu", "seconds": 1.0},
        "composition_files": {"composition_id": composition, "path": "f", "sha256": "d" * 64},
        "jobs": {**job, "deaths": 0, "shared": False, "cancel_requested": False},
        "base_files": {"model_id": model, "path": "f", "sha256": "d" * 64},
        "patches": {"id": patch, "model_id": model, "number": 1, "state": "draft", "author_id": user, "revision": 1},
        "patch_revisions": {"id": revision, "patch_id": patch, **texts, "base_digest": "b" * 71, "sha256": "f" * 64},
        "comments": {"id": uuid.uuid4(), "patch_id": patch, "author_id": user, "message": "m"},
    }
    with engine.begin() as connection:
        for name, row in rows.items():
            table = metadata.tables[name]
            row |= {"created_at": at} if "created_at" in table.c else {}
            kinds = {key: Uuid() for key, value in row.items() if isinstance(value, uuid.UUID)}
            for key, kind in kinds.items():
                table.c[key].type = kind
            connection.execute(insert(table).values(row))
        table = metadata.tables["patch_tensors"]
        table.c["revision_id"].type = Uuid()
        same = {
            "revision_id": revision,
            "dtype": "F32",
            "shape": "[1]",
            "nnz": 1,
            "density": 1.0,
            "l1": 1.0,
            "linf": 1.0,
        }
        for position, l2 in enumerate((3.0, 4.0)):
            connection.execute(insert(table).values(**same, name=f"t{position}", position=position, l2=l2))
        table = metadata.tables["builds"]
        for name in ("id", "model_id"):
            table.c[name].type = Uuid()
        build = {"model_id": model, "recipe_digest": "a" * 64, "device": "cpu", "created_at": at}
        for other in "cf":
            build |= {"id": uuid.uuid4(), "builder": other, "weights_digest": other * 71}
            connection.execute(insert(table).values(build))
    migrate(database_url)
    with Session(engine) as session:
        assert session.scalars(select(Composition.user_id)).all() == [user]
        assert session.scalars(select(Namespace.used_bytes)).all() == [7], "the blob of both files, once"
        assert session.scalars(select(Recipe.disputed)).all() == [True]
        assert session.execute(select(PatchRevision.norm, PatchRevision.rounding)).all() == [(5.0, None)]
        for name in rows:
            assert session.scalar(select(func.count()).select_from(metadata.tables[name])) == 1, name
        assert session.scalars(select(Job.rank)).one() == 1
    engine.dispose()

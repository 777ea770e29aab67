"""The chain of the audit log: whatever is changed in it by hand is noticed, and many writers keep it whole."""

import json
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, func, select, text
from sqlalchemy.exc import DBAPIError
from typer.testing import CliRunner

from registry.cli import app
from registry.db.audit import FIRST_HASH, hash_event
from registry.db.tables import AuditEvent, User, now
from registry.services.people.actors import record
from registry.services.people.namespaces import ensure_user
from tests.support.audit_log import complaints, rows
from tests.support.prepared import Fill
from tests.support.world import World

pytestmark = pytest.mark.heavy


def write_log(world: World, _folder: Path) -> None:
    """Write a log of seven rows with a value in every column, which nothing guards."""
    client = world.client("alice")
    world.token("bob")
    for body in ({"role": "reviewer"}, {"role": "maintainer"}, {"role": "owner"}):
        assert client.put("/api/v1/namespaces/alice/members/bob", json=body).status_code == 204
    for name in ("crew", "band"):
        assert client.post("/api/v1/namespaces", json={"name": name}).status_code == 201
    open_log(world)


@pytest.fixture
def world_filling(request: pytest.FixtureRequest) -> Fill | None:
    return write_log if "log" in request.fixturenames else None


@pytest.fixture
def log(world: World) -> World:
    """A registry with such a log, to change at will."""
    assert [row.serial for row in rows(world)] == [1, 2, 3, 4, 5, 6, 7]
    assert not complaints(world)
    return world


def open_log(world: World) -> None:
    """Drop the triggers that guard the log, as its owner could."""
    with world.database.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE audit_events DISABLE TRIGGER USER"))
        else:
            for name in ("audit_events_update", "audit_events_delete", "audit_events_insert"):
                connection.execute(text(f"DROP TRIGGER {name}"))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_events SET user_name = 'eve'",
        "UPDATE audit_events SET user_name = user_name WHERE serial = 1",
        "DELETE FROM audit_events WHERE serial = 1",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events CASCADE",
        "INSERT OR REPLACE INTO audit_events SELECT * FROM audit_events WHERE serial = 1",
    ],
)
def test_the_database_refuses_to_change_or_delete_a_row(world: World, statement: str) -> None:
    if world.database.engine.dialect.name not in {"TRUNCATE": "postgresql", "INSERT": "sqlite"}.get(
        statement.split()[0], world.database.engine.dialect.name
    ):
        pytest.skip("not in the words of this database")
    world.token("alice")
    before = rows(world)
    assert before
    with pytest.raises(DBAPIError, match="only grows"):
        by_hand(world, statement)
    assert [row.hash for row in rows(world)] == [row.hash for row in before]


def by_hand(world: World, statement: str, **values: Any) -> None:
    """Change the database by hand."""
    with world.database.engine.begin() as connection:
        connection.execute(text(statement), values)


@pytest.mark.parametrize("column", AuditEvent.__table__.columns, ids=lambda column: column.name)
def test_a_row_that_was_changed_by_hand_is_named(log: World, column: Column[Any]) -> None:
    for serial in (7, 4, 1):  # the first one that is wrong is named, so from the last to the first
        value: Any = {"at": "2001-01-01 00:00:00.000000", "serial": serial + 100, "hash": "f" * 64}.get(column.name)
        if value is None:
            other = {"user_id": uuid.uuid4().hex, "model_id": uuid.uuid4().hex}
            other |= {"before": '{"role": null}', "after": '{"role": "admin"}', "previous_hash": "e" * 64}
            value = other.get(column.name, "forged")
        by_hand(
            log, f"UPDATE audit_events SET {column.name} = :value WHERE serial = :serial", value=value, serial=serial
        )
        found = complaints(log)
        assert len(found) == 1
        if column.name != "serial":
            assert f"Row {serial} " in found[0], found
        elif serial == 7:
            assert found[0].endswith("after serial 6: the next is 107.")
        else:
            assert f"after serial {serial - 1}: the next is {serial + 1}" in found[0], found


@pytest.mark.parametrize("nothing", ["user_id", "user_name", "token_prefix", "before", "after", "request_id"])
def test_a_column_that_was_emptied_by_hand_is_named(log: World, nothing: str) -> None:
    by_hand(log, f"UPDATE audit_events SET {nothing} = NULL WHERE serial = 4")
    assert "Row 4 " in complaints(log)[0]


@pytest.mark.parametrize(
    ("serial", "words"), [(1, "after serial 0: the next is 2"), (4, "after serial 3: the next is 5")]
)
def test_a_row_that_was_removed_is_missed(log: World, serial: int, words: str) -> None:
    by_hand(log, "DELETE FROM audit_events WHERE serial = :serial", serial=serial)
    found = complaints(log)
    assert (len(found), words in found[0]) == (1, True), found


@pytest.mark.parametrize("kept", [6, 3, 0])
def test_rows_that_were_removed_at_the_end_are_missed(log: World, kept: int) -> None:
    by_hand(log, "DELETE FROM audit_events WHERE serial > :kept", kept=kept)
    assert complaints(log) == [f"The audit log ends at serial {kept}, but 7 were written."]


@pytest.mark.parametrize(("first", "second"), [(1, 7), (3, 4), (6, 7)])
def test_rows_that_were_swapped_are_named(log: World, first: int, second: int) -> None:
    for old, new in ((first, 1000), (second, first), (1000, second)):
        by_hand(log, "UPDATE audit_events SET serial = :new WHERE serial = :old", old=old, new=new)
    found = complaints(log)
    assert (len(found), f"Row {first} " in found[0]) == (1, True), found


def forge(world: World, serial: int, previous: str) -> None:
    """Add a row with a right hash."""
    event = AuditEvent(serial=serial, at=now(), action="token.create", subject="eve", previous_hash=previous)
    event.hash = hash_event(event)
    with world.database.write() as session:
        session.add(event)


def test_rows_that_were_added_are_named(log: World) -> None:
    newest = rows(log)[-1].hash
    forge(log, 8, newest)
    assert complaints(log) == ["The audit log ends at serial 8, but 7 were written."]
    by_hand(log, "DELETE FROM audit_events WHERE serial = 8")
    forge(log, 9, newest)
    assert complaints(log) == ["The audit log is missing the row after serial 7: the next is 9."]
    by_hand(log, "DELETE FROM audit_events WHERE serial = 9")
    for serial in (0, -5):
        forge(log, serial, FIRST_HASH)
        assert complaints(log) == [f"The audit log is missing the row after serial 0: the next is {serial}."]
        by_hand(log, "DELETE FROM audit_events WHERE serial = :serial", serial=serial)
    assert not complaints(log)


def test_a_row_that_was_changed_with_its_hash_is_given_away_by_the_next(log: World) -> None:
    for serial in (7, 4):
        with log.database.write() as session:
            event = session.get_one(AuditEvent, serial)
            event.user_name = "eve"
            event.hash = hash_event(event)
        words = "ends at serial 7" if serial == 7 else f"Row {serial + 1} "
        found = complaints(log)
        assert (len(found), words in found[0]) == (1, True), found


def test_a_head_that_was_changed_or_removed_is_missed(log: World) -> None:
    by_hand(log, "UPDATE audit_heads SET serial = 6")
    assert complaints(log) == ["The audit log ends at serial 7, but 6 were written."]
    by_hand(log, "UPDATE audit_heads SET serial = 7, hash = :hash", hash="f" * 64)
    assert "serial 7" in complaints(log)[0]
    by_hand(log, "DELETE FROM audit_heads")
    assert complaints(log) == ["The audit log has 7 rows, but no head that says how many were written."]


def test_a_log_longer_than_a_page_is_checked_to_its_end(log: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for page in (1, 3, 6, 7, 8):
        monkeypatch.setattr("registry.db.audit.ROWS_AT_ONCE", page)
        assert not complaints(log)
    by_hand(log, "UPDATE audit_events SET subject = 'eve' WHERE serial = 7")
    for page in (1, 3, 6, 7, 8):
        monkeypatch.setattr("registry.db.audit.ROWS_AT_ONCE", page)
        assert "Row 7 " in complaints(log)[0]


def test_whatever_people_write_hashes_the_same_when_it_is_read_again(world: World) -> None:
    said = {
        "text": "“ünïcödé” \u2028 \U0001f35e \\u0041 \" ' \x7f",
        "numbers": [0.1, 1e300, 5e-324, -0.0, 2**53, 1.0, 10**30],
        "nested": {"b": None, "a": [True, {}, []]},
        "": "",
    }
    with world.database.write() as session:
        record(session, None, "test.words", "x" * 1000, before=said, after={})
    (row,) = rows(world)
    assert (row.before, row.after, row.subject) == (said, {}, "x" * 300)
    assert not complaints(world)


def test_32_writers_at_once_leave_no_gap_and_no_fork(world: World) -> None:
    start, failed, seen, done = threading.Barrier(33), [], [], threading.Event()

    def write(number: int) -> None:
        try:
            start.wait(30)
            for turn in range(3):
                rolled_back = turn == 1 and number % 4 == 0
                try:
                    with world.database.write() as session:
                        user = ensure_user(session, f"writer{number}t{turn}")
                        record(session, None, "user.made", user.name)
                        record(session, None, "user.made.twice", user.name)
                        if rolled_back:
                            raise InterruptedError
                except InterruptedError:
                    assert rolled_back
        except BaseException as error:
            failed.append(error)

    def watch() -> None:
        """The committed rows are always a whole chain: a higher serial is never seen before a lower one."""
        start.wait(30)
        try:
            while not done.is_set():
                with world.database.read() as session:
                    query = select(func.count(AuditEvent.serial), func.max(AuditEvent.serial))
                    count, highest = session.execute(query).one()
                assert count == (highest or 0), "a gap"
                seen.append(count)
                assert not complaints(world)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(32)]
    watcher = threading.Thread(target=watch)
    for thread in (*writers, watcher):
        thread.start()
    for thread in writers:
        thread.join(120)
    done.set()
    watcher.join(60)
    assert not failed
    assert seen == sorted(seen)
    found = rows(world)
    expected = 2 * (32 * 3 - 8)
    assert [row.serial for row in found] == list(range(1, expected + 1))
    assert [row.at for row in found] == sorted(row.at for row in found)
    for first, second in zip(found[::2], found[1::2], strict=True):  # the rows of one transaction are together
        assert (first.subject, second.action) == (second.subject, "user.made.twice")
    with world.database.read() as session:
        assert session.scalar(select(func.count()).select_from(User)) == expected / 2
    assert not complaints(world)


def test_the_operators_check_names_the_row_and_exits_1(log: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", str(log.settings.database_url))
    check = ["check", "--data", str(log.settings.data)]
    fine = CliRunner().invoke(app, check)
    assert (fine.exit_code, "unbroken" in fine.output) == (0, True), fine.output
    newest = rows(log)[-1]
    assert f"ends at serial 7 with hash {newest.hash}." in fine.output
    shown = json.loads(CliRunner().invoke(app, [*check, "--json"]).output)
    assert shown["audit"] == {"serial": 7, "hash": newest.hash}
    by_hand(log, "UPDATE audit_events SET user_name = 'eve' WHERE serial = 5")
    wrong = CliRunner().invoke(app, check)
    named = "Row 5 of the audit log (namespace.member, alice)"
    assert (wrong.exit_code, named in wrong.output) == (1, True), wrong.output
    machine = CliRunner().invoke(app, [*check, "--json"])
    found = json.loads(machine.output)
    assert (machine.exit_code, found["ok"], len(found["problems"])) == (1, False, 1)

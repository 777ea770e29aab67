"""Notifications: who is called after a commit, in this process and in others, and who is not."""

import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest
import sqlalchemy

from registry.db import notifications
from registry.db.notifications import notify, watching
from registry.db.session import Database, open_database
from tests.support.processes import until


@pytest.fixture
def ours(migrated_url: str) -> Iterator[Database]:
    made = open_database(migrated_url)
    yield made
    made.engine.dispose()


@pytest.fixture
def theirs(migrated_url: str) -> Iterator[Database]:
    """The same database, as another process opens it."""
    made = open_database(migrated_url)
    yield made
    made.engine.dispose()


def write(database: Database, *subjects: str) -> None:
    with database.write() as session:
        session.execute(sqlalchemy.text("UPDATE audit_heads SET serial = serial + 1"))
        for subject in subjects:
            notify(session, subject)


def listeners(url: str) -> set[int]:
    """Return which processes of PostgreSQL somebody listens to."""
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        found = set(connection.execute(sqlalchemy.text(query)).scalars())
    engine.dispose()
    return found


def test_listeners_are_called_after_the_commit_and_never_for_what_was_rolled_back(ours: Database) -> None:
    heard: list[str] = []
    with ours.notifications.listen(heard.append):
        with ours.write() as session:
            notify(session, "a")
            notify(session, "a")
            assert heard == []
        assert "a" in heard
        with pytest.raises(ZeroDivisionError), ours.write() as session:
            notify(session, "b")
            raise ZeroDivisionError
        write(ours)
    write(ours, "c")
    assert set(heard) == {"a"}


def test_a_listener_hears_what_is_committed_while_it_is_called_for_others(ours: Database) -> None:
    heard: list[str] = []
    test = threading.current_thread()

    def relay(subject: str) -> None:
        heard.append(subject)
        if subject == "first" and threading.current_thread() is test:  # not in the thread that listens to PostgreSQL,
            write(ours, "second")  # which may be in the middle of it when the engine is disposed

    with ours.notifications.listen(relay):
        write(ours, "first")
        assert (heard[0], "second" in heard) == ("first", True), "PostgreSQL may pass the first on before the second"


@pytest.mark.parametrize("database_kind", ["postgresql"])
def test_postgresql_passes_notifications_on_and_again_after_its_connection_was_cut(
    ours: Database, theirs: Database, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "RECONNECT_SECONDS", 0.01)
    heard = SimpleQueue[str]()
    with ours.notifications.listen(heard.put):
        before = until(lambda: listeners(migrated_url))
        write(theirs, "one", "two")
        assert {heard.get(timeout=30), heard.get(timeout=30)} == {"one", "two"}
        with theirs.write() as session:
            session.execute(sqlalchemy.select(sqlalchemy.func.pg_terminate_backend(*before)))
        until(lambda: listeners(migrated_url) - before)
        write(theirs, "three")
        assert heard.get(timeout=30) == "three"
    ours.engine.dispose()
    until(lambda: not listeners(migrated_url))


def test_a_watch_sees_commits_of_other_processes(ours: Database, theirs: Database, migrated_url: str) -> None:
    with watching(ours.notifications, threading.Event()) as watch:
        if ours.notifications.remote:
            until(lambda: listeners(migrated_url))
        watch.begin()
        thread = threading.Thread(target=write, args=(theirs, "a job"))
        thread.start()
        watch.wait(3600)
        thread.join()


def test_a_watch_misses_nothing_between_looking_and_waiting(ours: Database) -> None:
    with watching(ours.notifications, threading.Event()) as watch:
        watch.begin()
        write(ours, "a job")
        watch.wait(3600)
        watch.begin()
        watch.wait(0.01)  # nothing has happened since: this ends by itself


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_watch_waits_on_while_the_file_cannot_be_read(ours: Database) -> None:
    with watching(ours.notifications, threading.Event()) as watch:
        watch.begin()
        assert watch.glance is not None
        watch.glance.args[0].driver_connection.close()
        watch.wait(0.01)

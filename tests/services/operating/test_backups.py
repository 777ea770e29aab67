"""A backup holds every row that was acknowledged before it began, and every blob that those rows name."""

import errno
import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from registry.db import dumps
from registry.db.session import open_database
from registry.db.tables import AuditEvent, Blob, UploadSession, now
from registry.errors import DigestMismatch, InvalidRequest, MissingExtra, NotFound, WrongState
from registry.services.blobs import bucket_copies, damage, garbage
from registry.services.operating import backups, identity
from registry.storage.bucket import open_bucket
from registry.storage.store import Store
from tests.support import launcher, postgres
from tests.support.blobs import orphan, refer
from tests.support.launcher import SERVER
from tests.support.processes import until
from tests.support.s3_stand_in import S3
from tests.support.world import World, upload

pytestmark = pytest.mark.heavy

DATA = random.Random(4).randbytes(2500)
NONE = timedelta(0)
ACCESS = ("endpoint", "region", "key_id", "secret")


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the programs of the PostgreSQL that tests use on the PATH."""
    if binaries := postgres.find_binaries():
        monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def new_url(database_kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an empty database of the same kind."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'new' / 'registry.db'}"
        return
    with request.getfixturevalue("databases").lent() as url:
        yield url


def url_of(world: World) -> str:
    return world.settings.database


def back_up(world: World, folder: Path) -> backups.Placed:
    return backups.back_up(world.database, world.store, url_of(world), folder)


def events(url: str) -> list[tuple[int, str]]:
    database = open_database(url)
    try:
        with database.read() as session:
            return [(row.serial, row.hash) for row in session.scalars(select(AuditEvent).order_by(AuditEvent.serial))]
    finally:
        database.engine.dispose()


def test_a_registry_comes_back_whole(world: World, tmp_path: Path, new_url: str) -> None:
    folder, sent = tmp_path / "backup", [DATA, b"small", b""]
    digests = [upload(world.client(), raw) for raw in sent]
    first = back_up(world, folder)
    assert (first.linked + first.copied, first.kept, first.problems) == (3, 0, [])
    more = upload(world.client(), b"more")
    second = back_up(world, folder)
    assert (second.linked + second.copied, second.kept) == (1, 3)
    assert len(list(folder.glob("database-*"))) == 1
    before = events(url_of(world))
    upload(world.client(), b"afterwards")
    placed = backups.restore(folder, tmp_path / "new", new_url)
    assert (placed.linked + placed.copied, placed.problems) == (4, [])
    assert events(new_url) == before
    store = Store(tmp_path / "new")
    assert [store.read(sha256, 10**4) for sha256 in [*digests, more]] == [*sent, b"more"]
    with pytest.raises(InvalidRequest, match="not empty"):
        backups.restore(folder, tmp_path / "new", new_url)


def test_a_backup_of_another_registry_is_not_renewed(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "backup"
    identity.claim(world.database, world.store)
    upload(world.client(), DATA)
    back_up(world, folder)
    manifest = json.loads((folder / backups.MANIFEST).read_bytes())
    before = sorted(path.name for path in folder.rglob("*"))
    theirs = ({"registry": "another"}, {"registry": None, "hash": "0" * 64})  # the second is of before there were ids
    for changed in theirs:
        (folder / backups.MANIFEST).write_text(json.dumps({**manifest, **changed}))
        with pytest.raises(InvalidRequest, match="holds a backup of the registry"):
            back_up(world, folder)
        assert sorted(path.name for path in folder.rglob("*")) == before
    (folder / backups.MANIFEST).write_text(json.dumps({**manifest, "registry": None}))
    assert back_up(world, folder).kept == 1


def test_what_is_not_a_backup_is_refused(world: World, tmp_path: Path, new_url: str) -> None:
    folder, new = tmp_path / "backup", tmp_path / "new"
    with pytest.raises(NotFound, match="no complete backup"):
        backups.restore(folder, new, new_url)
    folder.mkdir()
    (folder / "mine.txt").touch()
    with pytest.raises(InvalidRequest, match="something else"):
        back_up(world, folder)
    (folder / "mine.txt").unlink()
    back_up(world, folder)
    with pytest.raises(InvalidRequest, match="DATABASE_URL"):
        backups.restore(folder, new, "sqlite:///x" if "postgresql" in new_url else "postgresql+psycopg:///x")
    with Store(folder).holding(backups.LOCK), pytest.raises(WrongState, match="under way"):
        back_up(world, folder)
    (database,) = folder.glob("database-*")
    database.write_bytes(database.read_bytes()[:-1] + b"?")
    with pytest.raises(DigestMismatch, match="damaged"):
        backups.restore(folder, new, new_url)


def test_nothing_that_a_backup_needs_is_collected_meanwhile(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256, dumped = orphan(world, DATA), dumps.dump
    seen: list[garbage.Collected] = []

    def collect_meanwhile(url: str, path: Path) -> None:
        dumped(url, path)
        seen.append(garbage.run(world.database, world.store, NONE))

    monkeypatch.setattr(dumps, "dump", collect_meanwhile)
    back_up(world, tmp_path / "backup")
    assert (seen[0].held, seen[0].doomed.count, seen[0].deleted.count) == (True, 1, 0)
    assert Store(tmp_path / "backup").read(sha256, 10**4) == DATA
    collected = garbage.run(world.database, world.store, NONE)
    assert (collected.held, collected.deleted.count) == (False, 1)
    assert Store(tmp_path / "backup").exists(sha256)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK])
def test_blobs_are_copied_where_they_cannot_be_linked(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    good, bad = orphan(world, DATA), orphan(world, b"damaged")
    world.store.path(bad).chmod(0o644)
    world.store.path(bad).write_bytes(b"DAMAGED")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    placed = back_up(world, tmp_path / "backup")
    assert (placed.linked, placed.copied, len(placed.problems)) == (0, 1, 1)
    assert bad in placed.problems[0]
    assert not os.path.samefile(world.store.path(good), Store(tmp_path / "backup").path(good))
    assert [path.name for path in (tmp_path / "backup" / "blobs").iterdir()] == ["sha256"]


def test_a_link_to_damaged_bytes_is_replaced_once_they_are_repaired(world: World, tmp_path: Path) -> None:
    sha256, folder = upload(world.client(), DATA), tmp_path / "backup"
    path = world.store.path(sha256)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"?")
    assert back_up(world, folder).linked == 1
    list(damage.check(world.database, world.store))
    assert back_up(world, folder).kept == 1
    upload(world.client(), DATA)
    assert back_up(world, folder).linked == 1
    assert Store(folder).read(sha256, 10**4) == DATA


def test_a_damaged_blob_of_a_backup_is_named_and_marked(world: World, tmp_path: Path, new_url: str) -> None:
    sha256, folder = upload(world.client(), DATA), tmp_path / "backup"
    back_up(world, folder)
    path = Store(folder).path(sha256)
    path.unlink()
    path.write_bytes(DATA[:-1] + b"?")
    (problem,) = backups.restore(folder, tmp_path / "new", new_url).problems
    assert sha256 in problem
    database = open_database(new_url)
    with database.read() as session:
        assert session.get_one(Blob, sha256).damaged_at
    database.engine.dispose()


def test_a_restored_database_claims_of_a_bucket_what_it_holds_by_now_and_not_what_it_held(
    world: World, tmp_path: Path, new_url: str, s3: S3
) -> None:
    bucket = open_bucket("s3://crumbs", **{name: s3.settings()[f"bucket_{name}"] for name in ACCESS})
    assert bucket is not None
    world.token("alice")
    kept, lost = orphan(world, DATA), orphan(world, DATA[1:])
    with world.database.write() as session:
        refer(session, kept)
        refer(session, lost)
    assert len(list(bucket_copies.run(world.database, world.store, bucket, 1))) == 2
    back_up(world, tmp_path / "backup")
    del s3.objects[lost]
    s3.keep("0" * 64, b"of a blob that is newer than the database")
    assert backups.restore(tmp_path / "backup", tmp_path / "new", new_url).problems == []
    database, store = open_database(new_url), Store(tmp_path / "new")
    with database.read() as session:
        assert bucket_copies.claimed(session) == {}, "downloads come from the disk"
    s3.asked.clear()
    assert {outcome.error for outcome in bucket_copies.run(database, store, bucket, 1)} == {None}
    assert sorted(s3.methods()) == ["HEAD", "HEAD", "HEAD", "PUT"], "what is there is not sent again"
    assert s3.objects == {kept: DATA, lost: DATA[1:], "0" * 64: b"of a blob that is newer than the database"}
    with database.read() as session:
        assert set(bucket_copies.claimed(session)) == {kept, lost}
    assert list(bucket_copies.check(database, bucket)) == []
    strays, _ = bucket_copies.reconcile(database, store, bucket, now() + timedelta(minutes=1))
    assert [item.sha256 for item in strays] == ["0" * 64] and sorted(s3.objects) == sorted([kept, lost])
    database.engine.dispose()


def test_a_restore_that_was_interrupted_continues_and_nothing_starts_meanwhile(
    world: World, tmp_path: Path, new_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(world.client(), DATA)
    back_up(world, tmp_path / "backup")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(backups, "place", stop)
        backups.restore(tmp_path / "backup", tmp_path / "new", new_url)
    upload(world.client(), b"since then")
    back_up(world, tmp_path / "another")
    with pytest.raises(WrongState, match=r"restore of another backup into .* was begun"):
        backups.restore(tmp_path / "another", tmp_path / "new", new_url)
    environment = {**os.environ, "DATABASE_URL": new_url}
    refused = launcher.run(SERVER, "migrate", "--data", str(tmp_path / "new"), environment=environment)
    assert (refused.returncode, "restore` again" in refused.stderr) == (1, True)
    assert backups.restore(tmp_path / "backup", tmp_path / "new", new_url).problems == []
    launcher.run(SERVER, "migrate", "--data", str(tmp_path / "new"), environment=environment, check=True)


def test_without_the_programs_of_postgresql_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for work in (dumps.dump, dumps.load):
        with pytest.raises(MissingExtra, match="not on the PATH"):
            work("postgresql+psycopg://alice:secret@/registry", tmp_path / "file")


def test_the_password_of_a_database_is_not_in_the_process_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "pg_dump"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words; echo "$PGPASSWORD" > {tmp_path}/secret\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    dumps.dump("postgresql+psycopg://alice:secret@db.example.org:5433/registry", tmp_path / "file")
    words = (tmp_path / "words").read_text()
    assert "postgresql://alice@db.example.org:5433/registry" in words
    assert "secret" not in words
    assert (tmp_path / "secret").read_text() == "secret\n"


@pytest.mark.slow
def test_backups_under_writers_and_kills_lose_nothing(world: World, tmp_path: Path, new_url: str) -> None:
    """Uploads and collections go on beside; backups are killed at random, and each that ends is whole."""
    folder, stop, acknowledged = tmp_path / "backup", threading.Event(), list[str]()
    world.token("alice")
    environment = {**os.environ, "DATABASE_URL": url_of(world), "OMP_NUM_THREADS": "1"}

    def write() -> None:
        client = world.client()
        while not stop.is_set():
            acknowledged.append(upload(client, os.urandom(2500)))

    def collect() -> None:
        while not stop.wait(0.05):
            orphan(world, os.urandom(50))
            garbage.run(world.database, world.store, NONE)

    threads = [threading.Thread(target=work) for work in (write, write, collect)]
    for thread in threads:
        thread.start()
    try:
        chance, before = random.Random(5), list[str]()
        for round_ in range(12):
            enough = len(acknowledged) + 5
            until(lambda: len(acknowledged) > enough)  # noqa: B023
            named = json.loads((folder / backups.MANIFEST).read_bytes()) if round_ else None
            known = list(acknowledged)
            with (tmp_path / "log").open("w") as log:
                words = ["backup", str(folder), "--data", str(world.settings.data)]
                process = launcher.start(SERVER, words, environment, stdout=log.fileno(), stderr=log.fileno())
            if round_ % 3:
                stop.wait(chance.uniform(0.05, 0.8))
                process.send_signal(signal.SIGKILL)
            if process.wait(120) == 0:
                before = known
                assert json.loads((folder / backups.MANIFEST).read_bytes()) != named
            else:
                assert round_ % 3, (tmp_path / "log").read_text()
            manifest = backups.read_manifest(folder)
            assert backups.hash_file(folder / manifest.database) == manifest.sha256
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    placed = backups.restore(folder, tmp_path / "new", new_url)
    assert placed.problems == []
    database, store = open_database(new_url), Store(tmp_path / "new")
    with database.read() as session:
        rows = set(session.scalars(select(UploadSession.sha256).where(UploadSession.state == "done")))
    database.engine.dispose()
    assert len(before) > 20
    assert set(before) <= rows
    assert all(store.exists(sha256) for sha256 in rows)

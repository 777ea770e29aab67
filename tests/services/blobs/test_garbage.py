"""Garbage collection removes nothing that a row refers to, and everything else in the end."""

import json
import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from registry.cli import app
from registry.db.tables import Blob, Job, Model, Namespace, PatchRevision, UploadSession, now
from registry.db.tables.declare import Table
from registry.errors import DigestMismatch, InvalidRequest, NotFound, WrongState
from registry.server.receiving import complete_now
from registry.services.blobs import blobs, damage, garbage, quotas, uploads
from registry.services.blobs.garbage import Amount
from registry.services.catalog import models, patches, revisions
from registry.services.people import actors
from registry.storage import disk_parts
from tests.support import launcher
from tests.support.blobs import DATA, NONE, collect, orphan, refer
from tests.support.world import World, announce, digest, open_world, put_part, upload

DAY = timedelta(hours=24)


def state(world: World, sha256: str) -> str:
    with world.database.read() as session:
        row = session.get(Blob, sha256)
    assert (row is not None) == world.store.exists(sha256), "row and file come and go together"
    return row.state if row else "gone"


def actor(world: World, user: str = "alice") -> actors.Actor:
    secret = world.token(user)
    with world.database.read() as session:
        return actors.authenticate(session, secret)


# State by state --------------------------------------------------------------------------------------------------


def test_every_column_that_names_a_blob_keeps_it() -> None:
    foreign = {
        column
        for table in Table.metadata.tables.values()
        for column in table.columns
        for key in column.foreign_keys
        if key.target_fullname == "blobs.sha256"
    }
    assert {owner.property.columns[0] for owner in blobs.OWNERS} == foreign | {UploadSession.__table__.c.sha256}


def test_an_old_orphan_is_doomed_and_goes_after_a_second_grace(world: World) -> None:
    young, old = orphan(world, b"young", DAY - timedelta(minutes=1)), orphan(world, b"old", DAY)
    assert collect(world, DAY).doomed == Amount(1, 3)
    assert (state(world, young), state(world, old)) == ("live", "doomed")
    assert collect(world, DAY) == garbage.Collected(*[Amount()] * 5)
    with world.database.write() as session:
        session.get_one(Blob, old).doomed_at = now() - DAY / garbage.DOOMED_SHARE
    assert collect(world, DAY).deleted == Amount(1, 3)
    assert (state(world, young), state(world, old)) == ("live", "gone")


def test_without_a_grace_it_goes_at_once(world: World) -> None:
    many = [orphan(world, bytes([number]) * 3) for number in range(garbage.BATCH + 1)]
    found = collect(world)
    assert found.doomed == found.deleted == Amount(len(many), 3 * len(many))
    assert not list(world.store.digests())
    assert not list(world.store.staging.iterdir())


def test_a_lease_keeps_what_nothing_refers_to(world: World) -> None:
    sha256 = orphan(world, age=10 * DAY, leased_until=now() + timedelta(minutes=1))
    collect(world)
    assert state(world, sha256) == "live"


def test_an_upload_keeps_its_bytes_until_it_expires(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "LEASE", NONE)
    sha256 = upload(world.client(), DATA)
    collect(world)
    assert state(world, sha256) == "live"
    with world.database.write() as session:
        session.scalars(select(UploadSession)).one().expires_at = now()
    found = collect(world)
    assert (found.uploads, found.deleted) == (Amount(1, 2500), Amount(1, 2500))
    assert state(world, sha256) == "gone"


def test_bytes_sent_before_are_leased_when_they_are_announced_again(world: World) -> None:
    sha256 = upload(world.client(), DATA)
    with world.database.write() as session:
        row = session.get_one(Blob, sha256)
        row.state, row.doomed_at, row.leased_until = "doomed", now() - 10 * DAY, now() - 10 * DAY
        session.scalars(select(UploadSession)).one().expires_at = now()  # expired, but not swept yet
    assert announce(world.client(), DATA)["state"] == "done"
    with world.database.read() as session:
        row = session.get_one(Blob, sha256)
        assert (row.state, row.doomed_at) == ("live", None)
        assert row.leased_until > now() + blobs.LEASE * 0.9
    collect(world)
    assert state(world, sha256) == "live"


def test_a_doomed_blob_lives_again_when_its_bytes_are_sent_again(world: World) -> None:
    sha256 = orphan(world, age=10 * DAY, state="doomed", doomed_at=now() - 10 * DAY)
    upload(world.client(), DATA)
    collect(world)
    assert state(world, sha256) == "live"
    assert list(damage.check(world.database, world.store)) == []


def test_a_doomed_blob_that_a_row_refers_to_is_pardoned(world: World) -> None:
    world.token("alice")
    sha256 = orphan(world, age=10 * DAY, state="doomed", doomed_at=now() - 10 * DAY)
    with world.database.write() as session:
        refer(session, sha256)
    assert collect(world).deleted == Amount()
    assert state(world, sha256) == "live"


def test_a_lease_only_moves_forward(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    far = now() + 100 * DAY
    sha256 = orphan(world, leased_until=far)
    with world.database.write() as session:
        assert blobs.lease(session, [sha256, "0" * 64]) == {sha256: 2500}
        assert session.get_one(Blob, sha256).leased_until == far


def test_a_file_without_a_row_gets_one_and_its_whole_grace(world: World) -> None:
    sha256, _ = world.store.put([DATA])
    assert collect(world, DAY, orphans=False).orphans == Amount()
    assert collect(world, DAY).orphans == Amount(1, 2500)
    assert state(world, sha256) == "live"
    collect(world)
    assert state(world, sha256) == "gone"


def test_an_orphan_that_somebody_else_clears_away_meanwhile_is_passed_over(world: World) -> None:
    gone, there = "0" * 64, world.store.put([DATA])[0]
    with world.database.write() as session:
        assert blobs.adopt(session, world.store, [gone, there]) == {there: 2500}
    with world.database.read() as session:
        assert session.get(Blob, gone) is None


def test_staged_files_of_dead_processes_are_removed_and_those_of_running_jobs_stay(world: World) -> None:
    with world.database.write() as session:
        user = actors.authenticate(session, world.token("alice")) if world.tokens else None
    user = user or actor(world)
    job = Job(kind="compose", key="k", model="a/b", subject="s", payload={}, user_id=user.user_id)
    job.state, job.attempt = "running", 3
    with world.database.write() as session:
        session.add(job)
    kept, old = {f"job-{job.id.hex}-3", "put-new", "mirror-new"}, {"put-old", "mirror-old"}
    dead = {f"job-{job.id.hex}-2", f"job-{uuid.uuid4().hex}-1", "job-what", f"upload-{uuid.uuid4().hex}", *old}
    for name in kept | dead:
        (world.store.staging / name).mkdir() if name.startswith("job") else (world.store.staging / name).touch()
    hours_ago = time.time() - 3 * 3600
    for name in old:
        os.utime(world.store.staging / name, (hours_ago, hours_ago))
    time.sleep(0.01)
    assert collect(world).staged.count == len(dead)
    assert {path.name for path in world.store.staging.iterdir()} == kept


# Dry run ---------------------------------------------------------------------------------------------------------


def everything(world: World) -> Any:
    with world.database.read() as session:
        rows = [
            session.connection().exec_driver_sql(f"SELECT * FROM {table} ORDER BY 1").all()
            for table in ("blobs", "upload_sessions", "upload_parts", "audit_events")
        ]
    return rows, sorted(
        (str(path), path.stat().st_mtime_ns) for path in world.settings.data.rglob("*/*") if "db" not in path.name
    )


def litter(world: World) -> None:
    """Leave garbage of every kind."""
    put_part(world.client(), announce(world.client(), b"open" * 500), b"open" * 500, 0)
    upload(world.client(), b"sent")
    with world.database.write() as session:
        for row in session.scalars(select(UploadSession)):
            row.expires_at = now()
        for blob in session.scalars(select(Blob)):
            blob.leased_until = now()
    orphan(world, b"old", 10 * DAY)
    orphan(world, b"doomed", 10 * DAY, state="doomed", doomed_at=now() - DAY)
    world.store.put([b"no row"])
    (world.store.staging / f"upload-{uuid.uuid4().hex}").touch()


@pytest.mark.parametrize("grace", [DAY, NONE])
def test_a_dry_run_returns_what_would_be_removed_and_changes_nothing(world: World, grace: timedelta) -> None:
    litter(world)
    before = everything(world)
    would = collect(world, grace, dry=True)
    assert everything(world) == before
    assert collect(world, grace) == would
    assert would.uploads.count == 2
    assert would.staged.count == 2
    assert would.orphans == Amount(1, 6)
    assert (would.doomed.count, would.deleted.count) == ((1, 1) if grace else (3, 4))
    assert everything(world) != before


def test_the_command_says_it_too(world: World) -> None:
    litter(world)
    before = everything(world)
    environment = {"DATABASE_URL": str(world.settings.database_url)}

    def gc(*options: str) -> str:
        done = CliRunner().invoke(app, ["gc", "--data", str(world.settings.data), *options], env=environment)
        assert done.exit_code == 0, done.output
        return done.output

    assert "4 blobs deleted" in gc("--dry-run", "--grace", "0")
    found = json.loads(gc("--dry-run", "--json"))
    assert (found["dry_run"], found["deleted"]) == (True, {"count": 1, "bytes": 6})
    assert everything(world) == before
    assert "1 blobs deleted (6 bytes)" in gc()
    assert "3 blobs deleted" in gc("--grace", "0")
    assert not list(world.store.digests())
    assert list(damage.check(world.database, world.store)) == []


# At the same instant ---------------------------------------------------------------------------------------------


@contextmanager
def collecting(world: World) -> Iterator[threading.Event]:
    """Run a collector that has moved the files aside, but does not commit until the event is set."""
    decided, go_on = threading.Event(), threading.Event()
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with world.database.write() as session:
                garbage.doom(session, NONE)
                for sha256 in garbage.delete(session, NONE)[1]:
                    world.store.set_aside(sha256)
                decided.set()
                assert go_on.wait(30)
        except BaseException as error:
            failed.append(error)
            decided.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert decided.wait(30)
    try:
        yield go_on
    finally:
        go_on.set()
        thread.join()
        assert not failed


def test_an_announcement_during_a_collection_must_send_the_bytes(world: World) -> None:
    """The bytes were readable when the announcement began, and are gone when it gets the lock."""
    sha256, user = orphan(world), actor(world, "bob")
    seen: list[Any] = []

    def want() -> None:
        with world.database.write() as session:
            seen.append(blobs.lease(session, [sha256]))
            seen.append(uploads.announce(session, world.store, user, sha256, 2500, limits).state)

    limits = world.app.state.context.upload_limits
    with collecting(world) as go_on:
        thread = threading.Thread(target=want)
        thread.start()
        time.sleep(0.3)
        assert seen == [], "it waits for the collector"
        go_on.set()
        thread.join()
    assert seen == [{}, "open"]
    upload(world.client("bob"), DATA)
    garbage.restore(world.database, world.store)
    assert state(world, sha256) == "live"


def test_a_blob_that_is_used_again_in_time_is_kept(world: World) -> None:
    """The hard case of git: an old orphan, used again in a transaction that the collector cannot see yet."""
    sha256, user = orphan(world, age=100 * DAY, state="doomed", doomed_at=now() - 99 * DAY), actor(world)
    reports: list[garbage.Collected] = []
    thread = threading.Thread(target=lambda: reports.append(collect(world, orphans=False)))
    with world.database.write() as session:
        assert blobs.lease(session, [sha256])
        thread.start()
        time.sleep(0.3)
        session.add(
            UploadSession(
                user_id=user.user_id,
                namespace_id=session.scalars(select(Namespace.id)).first(),
                sha256=sha256,
                size=2500,
                part_size=1000,
                state="done",
                expires_at=now() + DAY,
            )
        )
    thread.join()
    assert reports[0].deleted == Amount()
    assert state(world, sha256) == "live"


def look(session: Session, digests: Collection[str]) -> dict[str, int]:
    """Return what `blobs.lease` returns, without taking locks and leases."""
    found = session.execute(select(Blob.sha256, Blob.size).where(Blob.sha256.in_(set(digests))))
    return {row.sha256: row.size for row in found}


@pytest.mark.parametrize("leased", [True, False])
def test_a_lease_keeps_bytes_that_are_released_at_this_moment(
    world: World, database_kind: str, monkeypatch: pytest.MonkeyPatch, leased: bool
) -> None:
    """Bob's announcement finds alice's patch; before it has a session, she releases it, and garbage is collected."""
    if database_kind == "sqlite":
        pytest.skip("one writer at a time: there, every transaction is a lock")
    sha256, stress = upload(world.client(), DATA), Stress(world)
    with world.database.write() as session:
        given = revisions.Contribution(sha256, "title", "")
        revision, _ = revisions.push(session, stress.users[0], "alice/base", given)
        revision.state = "checked"
    usage = quotas.usage

    def pausing(*arguments: Any) -> quotas.Usage:  # what the announcement asks for last
        with world.database.write() as other:
            revisions.refuse(other, models.find(other, "alice/base"), patches.by_id(other, revision.id), "", "")
            other.scalars(select(UploadSession)).one().expires_at = now()
        collect(world)
        return usage(*arguments)

    monkeypatch.setattr(blobs, "LEASE", NONE)
    with world.database.write() as session:
        session.get_one(Blob, sha256).leased_until = now()
    monkeypatch.setattr(quotas, "usage", pausing)
    if not leased:
        monkeypatch.setattr(blobs, "lease", look)
    assert announce(world.client("bob"), DATA)["state"] == "done"
    assert world.store.exists(sha256) == leased


def test_a_foreign_key_alone_keeps_it_too(world: World) -> None:
    world.token("alice")
    sha256 = orphan(world, age=100 * DAY, state="doomed", doomed_at=now() - 99 * DAY)
    thread = threading.Thread(target=lambda: collect(world, orphans=False))
    with world.database.write() as session:
        refer(session, sha256)
        thread.start()
        time.sleep(0.3)
    thread.join()
    assert world.store.exists(sha256)
    collect(world)
    assert state(world, sha256) == "live"


def test_a_row_that_refers_to_a_blob_too_late_is_refused_as_a_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "readable", lambda _session, _actor, digests: dict.fromkeys(digests, 5))
    body = {"name": "alice/tiny", "files": [{"path": "model.safetensors", "sha256": digest(DATA)}]}
    refused = world.client().post("/api/v1/models", json=body)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert "send the request again" in refused.json()["detail"]
    with world.database.read() as session:
        assert not session.scalars(select(Model)).all()
        assert not session.scalars(select(Job)).all()
    monkeypatch.undo()
    assert "upload them first" in world.client().post("/api/v1/models", json=body).json()["detail"]


def test_checking_while_a_blob_goes_reports_nothing(world: World) -> None:
    orphan(world)
    found: list[str] = []
    with collecting(world) as go_on:
        thread = threading.Thread(target=lambda: found.extend(damage.check(world.database, world.store)))
        thread.start()
        time.sleep(0.3)
        go_on.set()
        thread.join()
    assert found == []


# Killed ----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from datetime import timedelta
from pathlib import Path
from registry.db.session import open_database
from registry.services.blobs import garbage
from registry.storage.store import Store

url, data, module, name, turn = sys.argv[1:]
owner = {"garbage": garbage, "path": Path, "store": Store}[module]
real, left = getattr(owner, name), [int(turn)]

def dying(*args, **words):
    found = real(*args, **words)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(owner, name, dying)
garbage.run(open_database(url), Store(Path(data)), timedelta(0))
"""


def kill_in(world: World, module: str, name: str, turn: int) -> None:
    """Collect in a process that is killed once a function was called a number of times."""
    arguments = [str(world.settings.database), str(world.settings.data), module, name, str(turn)]
    done = launcher.run(KILLED, *arguments, environment=os.environ)
    assert done.returncode == -signal.SIGKILL, done.stderr


POINTS = [("garbage", "doom", 1), ("garbage", "delete", 1), ("store", "set_aside", 1), ("store", "set_aside", 3)]
POINTS += [("garbage", "disk_bytes", 1), ("path", "unlink", 1), ("path", "unlink", 2)]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point[1]}-{point[2]}")
def test_the_next_collector_finishes_what_a_killed_one_began(world: World, point: tuple[str, str, int]) -> None:
    world.token("alice")
    kept = upload(world.client(), b"kept")
    garbage_blobs = [orphan(world, bytes([number]) * 9) for number in range(3)]
    (world.store.staging / f"upload-{uuid.uuid4().hex}").touch()
    kill_in(world, *point)
    time.sleep(0.2)  # until PostgreSQL has noticed
    with world.database.write() as session:
        refer(session, kept)
    assert world.store.exists(kept)
    collect(world)
    assert [state(world, sha256) for sha256 in garbage_blobs] == ["gone"] * 3
    assert list(world.store.digests()) == [kept]
    assert not list(world.store.staging.iterdir())
    assert list(damage.check(world.database, world.store)) == []


def test_what_is_wanted_again_after_a_kill_is_put_back(world: World) -> None:
    world.token("alice")
    wanted, sent_again, _ = (orphan(world, data) for data in (b"wanted", b"again", b"neither"))
    kill_in(world, "store", "set_aside", 3)
    assert not list(world.store.digests())
    time.sleep(0.2)
    with world.database.write() as session:
        refer(session, wanted)
    upload(world.client(), b"again")
    collect(world)
    assert list(world.store.digests()) == sorted([wanted, sent_again])
    assert not list(world.store.staging.iterdir())
    assert list(damage.check(world.database, world.store)) == []


# Under load ------------------------------------------------------------------------------------------------------

EXPECTED = (WrongState, DigestMismatch, InvalidRequest, NotFound)
PAYLOADS = [bytes([number]) * 700 for number in range(5)]


ENOUGH = 5  # of everything that is done


class Stress:
    """Users who send, find, use and release the same few bytes, while collectors run without a grace."""

    def __init__(self, world: World) -> None:
        self.world, self.made = world, world.app.state.context
        self.users = [actor(world, name) for name in ("alice", "bob", "carol")]
        self.lost: list[str] = []
        self.failed: list[BaseException] = []
        self.counting = threading.Lock()
        self.done = {"sent": 0, "found": 0, "referred": 0, "pushed": 0, "deleted": 0}
        with world.database.write() as session:
            space = session.scalars(select(Namespace).where(Namespace.name == "alice")).one()
            there = Model(namespace_id=space.id, name="base", creator_id=self.users[0].user_id, size=1)
            there.state, there.base_digest = "ready", "sha256:" + "0" * 64
            session.add(there)

    def count(self, what: str, more: int = 1) -> None:
        """Count what was done; threads that add to a number at a time would lose some."""
        with self.counting:
            self.done[what] += more

    def present(self, what: str, sha256: str) -> None:
        """Record a loss: a row refers to bytes that are missing."""
        if not self.world.store.exists(sha256):
            self.lost.append(f"{what} {sha256[:8]}")

    def send(self, user: actors.Actor, data: bytes) -> None:
        with self.world.database.write() as session:
            found = uploads.announce(session, self.world.store, user, digest(data), len(data), self.made.upload_limits)
        if found.state == "done":
            self.count("found")
        else:
            path = disk_parts.staging_path(self.world.store, found.id)
            disk_parts.create_staging(self.world.store, path)
            with disk_parts.staging(self.world.store, path) as staged:
                os.pwrite(staged, data, 0)
            lifetime = self.made.upload_limits.lifetime
            with self.world.database.write() as session:
                uploads.record_part(session, user, found.id, 0, len(data), digest(data), lifetime)
            complete_now(self.made, user, found.id)
            self.count("sent")
        time.sleep(0.02)
        with self.world.database.write() as session:  # as long as this row is locked nobody sweeps it
            row = session.get(UploadSession, found.id, with_for_update=True)
            if row is not None and row.state == "done":
                self.present("a session", row.sha256)

    def refer(self, user: actors.Actor, data: bytes, number: str) -> None:
        with self.world.database.write() as session:
            model, _ = models.create(session, user, f"{user.name}/m{number}", [("m.safetensors", digest(data))])
        self.present("a base", digest(data))
        self.count("referred")
        time.sleep(0.002)
        self.present("a base", digest(data))
        with self.world.database.write() as session:
            models.refuse_import(session, session.get_one(Model, model.id), "enough")

    def push(self, user: actors.Actor, data: bytes) -> None:
        with self.world.database.write() as session:
            given = revisions.Contribution(digest(data), "title", "")
            revision, _ = revisions.push(session, user, "alice/base", given)
            revision.state = "checked"
        self.count("pushed")
        time.sleep(0.002)
        with self.world.database.write() as session:  # the same bytes again are the same patch, which others refuse
            session.get_one(PatchRevision, revision.id, with_for_update=True)
            mine = patches.by_id(session, revision.id)
            if mine.blob_sha256 is not None:
                self.present("a patch", digest(data))
                revisions.refuse(session, models.find(session, "alice/base"), mine, "alice/base#1", "enough")

    def work(self, thread: int, turns: int) -> None:
        chance = random.Random(thread)
        for turn in range(40 * turns):
            if turn >= turns and min(self.done.values()) >= ENOUGH:
                return  # what happens is chance: of 200 turns, as few as 7 were a push
            user, data = self.users[thread % 3], chance.choice(PAYLOADS)
            step = chance.choice([self.send, self.send, self.push, self.refer])
            try:
                if step == self.refer:
                    self.refer(user, data, f"{thread}-{turn}")
                else:
                    step(user, data)
            except EXPECTED:
                pass
            except BaseException as error:
                self.failed.append(error)

    def collect(self, over: threading.Event) -> None:
        while not over.is_set():
            try:
                self.count("deleted", collect(self.world).deleted.count)
            except BaseException as error:
                self.failed.append(error)

    def run(self, threads: int = 8, turns: int = 25, collectors: int = 2) -> None:
        over = threading.Event()
        workers = [threading.Thread(target=self.work, args=(number, turns)) for number in range(threads)]
        behind = [threading.Thread(target=self.collect, args=(over,)) for _ in range(collectors)]
        for thread in [*behind, *workers]:
            thread.start()
        for thread in workers:
            thread.join()
        over.set()
        for thread in behind:
            thread.join()


@pytest.fixture
def stress(tmp_path: Path, migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stress]:
    """No grace, no leases, and sessions that expire at once: only the locks keep a blob."""
    monkeypatch.setattr(blobs, "LEASE", NONE)
    with open_world(tmp_path / "data", migrated_url, upload_hours=0.1 / 3600) as world:
        yield Stress(world)


@pytest.mark.heavy
def test_no_collector_takes_what_is_wanted(stress: Stress) -> None:
    stress.run()
    assert stress.failed == []
    assert stress.lost == []
    assert min(stress.done.values()) >= ENOUGH, f"too little happened: {stress.done}"
    time.sleep(0.15)
    collect(stress.world)
    assert list(stress.world.store.digests()) == []
    assert list(damage.check(stress.world.database, stress.world.store)) == []


@pytest.mark.slow
def test_that_test_sees_a_collector_that_does_not_ask(stress: Stress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "OWNERS", tuple(owner for owner in blobs.OWNERS if owner is not UploadSession.sha256))
    for _ in range(5):  # it takes a coincidence
        stress.run()
        if stress.lost:
            break
    assert stress.lost

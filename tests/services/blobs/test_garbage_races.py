"""Garbage collection while others announce, use and release the same bytes."""

import os
import random
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Blob, Job, Model, Namespace, PatchRevision, UploadSession, now
from registry.errors import DigestMismatch, InvalidRequest, NotFound, WrongState
from registry.server.receiving import complete_now
from registry.services.blobs import blobs, damage, garbage, quotas, uploads
from registry.services.blobs.garbage import Amount
from registry.services.catalog import models, patches, revisions
from registry.services.people import actors
from registry.storage import disk_parts
from tests.support.blobs import DATA, NONE, collect, orphan, refer
from tests.support.collecting import DAY, actor, state
from tests.support.world import World, announce, digest, open_world, upload


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
    for _ in range(20):  # it takes a coincidence, which comes in the first few unless the machine is full
        stress.run()
        if stress.lost:
            break
    assert stress.lost

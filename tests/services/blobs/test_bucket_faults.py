"""A registry whose store is a bucket, attacked: answers are lost, late and slow, and neighbours are close."""

import random
import threading
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.db.tables import Blob, Job, now
from registry.errors import StorageFailed, Unavailable, WrongState
from registry.services.blobs import blobs, garbage, removal, uploads
from registry.services.operating import identity
from registry.storage import bucket as buckets
from registry.storage import fetches
from registry.storage import s3 as connections
from registry.storage.bucket_store import BucketStore
from registry.storage.multipart import LEAST_PART
from registry.storage.store import Store
from registry.worker import checking
from registry.worker.worker import Worker
from tests.support.blobs import NONE, collect, orphan, refer
from tests.support.s3_stand_in import CUT, S3, Asked
from tests.support.world import World, announce, digest, enqueue, put_part, upload

pytestmark = pytest.mark.heavy

DATA = random.Random(18).randbytes(4500)


@pytest.fixture
def world_settings(s3: S3) -> dict[str, Any]:
    """Its blobs are in a bucket."""
    return {"store": "bucket", **s3.settings("blobs")}


@pytest.fixture
def world(world: World) -> World:
    world.token("alice")
    identity.claim(world.database, world.store)
    return world


def store_of(world: World) -> BucketStore:
    assert isinstance(world.store, BucketStore)
    return world.store


def store(world: World, data: bytes) -> None:
    with world.store.staged([data]) as (staged, sha256, size), world.database.write() as session:
        blobs.register(session, world.store, staged, sha256, size)
        refer(session, sha256)


# Deleting --------------------------------------------------------------------------------------------------------


def test_a_delete_that_takes_effect_late_deletes_nothing_that_was_stored_again(world: World, s3: S3) -> None:
    sha256 = orphan(world, DATA)
    s3.fault = lambda asked: CUT if asked.method == "DELETE" else None
    assert "did not delete" in collect(world).problem
    assert s3.methods().count("DELETE") == 1, "asked once: a request more could be late as well"
    s3.fault = lambda asked: None
    collect(world)
    assert s3.methods().count("DELETE") == 1, "the first may still take effect"
    with pytest.raises(Unavailable):
        store(world, DATA)
    with world.database.write() as session:
        session.get_one(Blob, sha256).bucketed_at = now() - removal.LATE
    collect(world)
    store(world, DATA)
    assert s3.objects[f"blobs/{sha256}"] == DATA


def test_two_that_delete_at_once_do_not_delete_what_was_stored_in_between(
    world: World, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has recorded that it deletes, and stands still; another deletes, and the bytes are stored again."""
    orphan(world, DATA)
    with world.database.write() as session:
        garbage.doom(session, NONE)
        garbage.delete(session, NONE, stays=True)
    next_due, asked = removal.next_due, list[str | None]()

    def overtaken(session: Session, delay: timedelta, sha256: str | None = None) -> Blob | None:
        asked.append(sha256)
        if len(asked) == 2:
            session.get_one(Blob, sha256).bucketed_at = now() + timedelta(seconds=1)
        return next_due(session, delay, sha256)

    monkeypatch.setattr(removal, "next_due", overtaken)
    assert removal.run(world.database, world.store, NONE) == 0
    assert "DELETE" not in s3.methods()


def test_parts_of_a_registry_are_told_from_the_blobs_of_one_whose_prefix_is_within(world: World, s3: S3) -> None:
    theirs = {f"blobs/uploads/{digest(DATA)}": DATA, "blobs/uploads/registry-id": b"theirs"}
    theirs[f"blobs/uploads/uploads/{uuid.uuid4().hex}/0-{digest(DATA)}"] = DATA
    ours = f"blobs/uploads/{uuid.uuid4().hex}/0-{digest(DATA)}"
    for key, data in {**theirs, ours: DATA}.items():
        s3.keep(key, data)
    collect(world)
    assert theirs.items() <= s3.objects.items() and ours not in s3.objects


def test_what_was_sent_of_an_object_and_never_finished_goes_after_a_day(world: World, s3: S3) -> None:
    s3.uploads = {"old": {1: DATA}, "new": {1: DATA}, "theirs": {1: DATA}}
    old = datetime.now(UTC) - timedelta(days=2)
    s3.begun = {
        "old": (f"blobs/{'0' * 64}", old),
        "new": (f"blobs/{'1' * 64}", datetime.now(UTC)),
        "theirs": ("x", old),
    }
    collect(world)
    assert set(s3.uploads) == {"new", "theirs"}


def test_a_bucket_full_of_orphans_keeps_nobody_waiting_long(
    world: World, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        s3.keep(f"blobs/{digest(bytes([number]))}", bytes([number]))
    adopt, asked = blobs.adopt, list[int]()

    def counted(session: Session, store: Store, orphans: Collection[str]) -> dict[str, int]:
        s3.asked.clear()
        found = adopt(session, store, orphans)
        asked.append(len(s3.asked))
        return found

    monkeypatch.setattr(blobs, "adopt", counted)
    assert collect(world).orphans.count == 30
    assert sum(asked) == 30 and max(asked) <= 20, "requests within a transaction"


# Uploads ---------------------------------------------------------------------------------------------------------


def test_an_upload_is_completed_by_one_at_a_time(world: World, s3: S3) -> None:
    session = announce(world.client(), DATA)
    for number in session["missing"]:
        put_part(world.client(), session, DATA, number)
    with world.database.read() as reading:
        upload_id = uuid.UUID(session["id"])
        announced = uploads.to_complete(uploads.find(reading, None, upload_id))
    s3.asked.clear()
    url = f"/api/v1/uploads/{session['id']}/complete"
    with world.store.parts.completing(announced):
        read = s3.methods().count("GET")
        answer = world.client().post(url)
        assert answer.status_code == 409 and "being completed" in answer.json()["detail"]
        with pytest.raises(WrongState), world.store.parts.completing(replace(announced)):
            pass
        assert s3.methods().count("GET") == read == 5
    assert world.client().post(url).json()["state"] == "done"


def test_a_part_that_was_acknowledged_is_not_replaced_by_who_sends_other_bytes_at_once(world: World, s3: S3) -> None:
    session = announce(world.client(), DATA)
    upload_id, parts = uuid.UUID(session["id"]), world.store.parts
    slot = parts.slot(upload_id, 0, 1000, None)  # before the right ones are recorded
    for number in session["missing"]:
        assert put_part(world.client(), session, DATA, number).status_code == 200
    slot.path.write_bytes(b"?" * 1000)
    parts.keep(upload_id, 0, slot, digest(b"?" * 1000))
    assert world.client().post(f"/api/v1/uploads/{session['id']}/complete").json()["state"] == "done"
    assert s3.objects[f"blobs/{digest(DATA)}"] == DATA


def test_an_object_that_was_finished_though_the_answer_was_lost_is_there(
    world: World, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_RETRIES", 1)
    data = bytes(LEAST_PART) + DATA
    lost = list[Asked]()

    def lose(asked: Asked) -> int | None:
        if asked.method == "POST" and "uploadId" in asked.word and not lost:
            lost.append(asked)
            s3.serve(asked)
            return CUT
        return None

    s3.fault = lose
    store_of(world).bucket._clients.clear()  # which were not to ask again
    store_of(world).take(digest(data), len(data), [data[:LEAST_PART], data[LEAST_PART:]])
    assert lost and "NoSuchUpload" in s3.refused and s3.objects[f"blobs/{digest(data)}"] == data


def test_damaged_bytes_do_not_pass_for_what_was_not_finished(world: World, s3: S3) -> None:
    data = bytes(LEAST_PART) + DATA
    s3.keep(f"blobs/{digest(data)}", b"!" * len(data))

    def discard(asked: Asked) -> None:
        if asked.method == "POST" and "uploadId" in asked.word:
            s3.uploads.clear()

    s3.fault = discard
    with pytest.raises(StorageFailed, match="does not have all"):
        store_of(world).take(digest(data), len(data), [data[:LEAST_PART], data[LEAST_PART:]])


def test_a_transaction_waits_for_a_slow_bucket_for_seconds(world: World) -> None:
    """Whatever is asked of the bucket while others wait to write; see `blobs.register` and removal.py."""
    assert all(seconds * tries <= 10 for seconds, tries in (buckets.PATIENCE[kind] for kind in ("quick", "once")))


# Readers ---------------------------------------------------------------------------------------------------------


def test_a_slow_bucket_keeps_no_thread_from_other_readers(
    world: World, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_of(world).patience = 60.0
    sha256 = upload(world.client(), DATA)
    store_of(world).distrust(sha256)
    slow = threading.Event()
    s3.fault = lambda asked: slow.wait(60) and None
    ctx = world.app.state.context

    def read() -> str:
        async def run() -> Any:
            return await ctx.readers.run(ctx.store.bring, sha256)

        try:
            world.portal.call(run)
        except Exception as error:
            return type(error).__name__
        return "brought"

    with ThreadPoolExecutor(40) as pool:
        waiting = [pool.submit(read) for _ in range(40)]
        assert world.client().get("/api/v1/models").status_code == 200
        slow.set()
        found = [future.result(60) for future in waiting]
    assert found.count("brought") >= fetches.MOST_WAITING and set(found) == {"brought", "TooMany"}


def test_a_worker_marks_what_the_bucket_has_lost_when_it_starts(world: World, s3: S3) -> None:
    lost, kept = upload(world.client(), DATA), upload(world.client(), DATA[1:])
    for sha256 in (lost, kept):
        store_of(world).distrust(sha256)
    del s3.objects[f"blobs/{lost}"]
    world.worker.recover()
    with world.database.read() as session:
        assert session.get_one(Blob, lost).damaged_at and not session.get_one(Blob, kept).damaged_at


def test_an_object_that_is_not_sent_keeps_no_other_job_waiting(
    world: World, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = upload(world.client(), DATA)
    store_of(world).distrust(sha256)
    s3.fault = lambda asked: 403 if asked.method == "GET" else None

    def check(worker: Worker, claim: Any) -> None:
        with worker.here(claim, {sha256}):
            pass

    monkeypatch.setattr(checking, "check_patch", check)
    monkeypatch.setattr(world.worker.stopping, "wait", lambda _: None)
    first, second = enqueue(world, 2, "check")
    for _ in range(2):
        world.worker.step()
    with world.database.write() as session:
        rows = [session.get_one(Job, job.id) for job in (first, second)]
        assert [(row.attempt, row.state, row.deaths) for row in rows] == [(1, "running", -1)] * 2
        for row in rows:
            row.lease_until = now() - timedelta(seconds=1)
    world.worker.step()
    with world.database.read() as session:
        assert max(session.scalars(select(Job.deaths))) <= 0, "and none of that counts as a death"

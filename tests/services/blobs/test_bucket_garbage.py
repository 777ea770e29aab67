"""Garbage and damage in a bucket: objects and their rows go and come together."""

import random
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from registry.db.tables import Blob, now
from registry.errors import BreadcrumbError, StorageFailed, Unavailable
from registry.services.blobs import blobs, damage, garbage, removal, scrubbing
from registry.services.operating import identity
from tests.support.blobs import NONE, collect, orphan, refer, unwanted
from tests.support.bucket_worlds import in_bucket, store_of
from tests.support.s3_stand_in import CUT, S3
from tests.support.world import World, announce, digest, upload

pytestmark = pytest.mark.heavy
DATA = random.Random(8).randbytes(4500)


@pytest.fixture
def world_settings(s3: S3) -> dict[str, Any]:
    """Its blobs are in a bucket, and so much as a config is downloaded from there."""
    return {"store": "bucket", "bucket_least": 1000, **s3.settings("blobs")}


@pytest.fixture
def world(world: World) -> World:
    world.token("alice")
    identity.claim(world.database, world.store)
    return world


def test_an_object_goes_after_the_commit_and_its_row_after_the_object(world: World, s3: S3) -> None:
    sha256 = orphan(world)
    s3.fault = lambda asked: 503 if asked.method == "DELETE" else None
    found = collect(world)
    assert "did not delete" in found.problem and set(in_bucket(s3)) == {sha256}
    with world.database.read() as session:
        row = session.get_one(Blob, sha256)
        assert row.state == "computed" and row.doomed_at is not None, "nobody believes that it is stored"
        assert blobs.lease(session, [sha256]) == {}
    s3.fault = lambda asked: None
    with world.database.write() as session:
        session.get_one(Blob, sha256).bucketed_at = now() - removal.LATE
    assert collect(world).problem == ""
    assert in_bucket(s3) == {}
    collect(world)
    with world.database.read() as session:
        assert session.get(Blob, sha256) is None


def test_bytes_that_are_sent_again_while_they_are_deleted_stay(world: World, s3: S3, tmp_path: Path) -> None:
    sha256 = orphan(world)
    with world.database.write() as session:
        garbage.doom(session, NONE)
        garbage.delete(session, NONE, stays=True)
    staged = world.store.staging / "again"
    staged.write_bytes(s3.objects[f"blobs/{sha256}"])
    size = staged.stat().st_size
    with world.database.write() as session:
        blobs.register(session, world.store, staged, sha256, size)
        refer(session, sha256)
    assert removal.run(world.database, store_of(world), NONE) == 0
    assert sha256 in in_bucket(s3)
    unwanted(world, sha256)
    with world.database.write() as session:
        session.get_one(Blob, sha256).leased_until = now()
    collect(world)
    assert in_bucket(s3) == {}
    staged.write_bytes(b"x" * size)
    with pytest.raises(BreadcrumbError), world.database.write() as session:
        blobs.register(session, world.store, None, sha256, size)


@pytest.mark.parametrize("seed", range(3))
def test_a_stored_row_has_its_object_whatever_fails(world: World, s3: S3, seed: int) -> None:
    dice = random.Random(seed)
    contents = [DATA[number:] for number in range(4)]

    def sound() -> None:
        with world.database.read() as session:
            for sha256 in session.scalars(select(Blob.sha256).where(Blob.state.in_(("live", "doomed")))):
                assert digest(s3.objects[f"blobs/{sha256}"]) == sha256

    def want(data: bytes) -> None:
        with world.store.staged([data]) as (staged, sha256, size):
            world.store.send_ahead(staged, sha256)
            if dice.randrange(2):
                collect(world)
            with world.database.write() as session:
                blobs.register(session, world.store, staged, sha256, size)
                refer(session, sha256)
                session.get_one(Blob, sha256).leased_until = now()

    for _ in range(40):
        limit = dice.randrange(8)
        s3.asked.clear()
        s3.fault = lambda asked, limit=limit: dice.choice([CUT, 500]) if len(s3.asked) > limit else None
        step = dice.randrange(4)
        try:
            if step == 0:
                want(dice.choice(contents))
            elif step == 1:
                unwanted(world, digest(dice.choice(contents)))
            else:
                collect(world, orphans=bool(dice.randrange(2)))
        except (StorageFailed, Unavailable):
            pass
        s3.fault = lambda asked: None
        sound()
    with world.database.write() as session:
        session.execute(update(Blob).where(Blob.bucketed_at.is_not(None)).values(bucketed_at=now() - removal.LATE))
    collect(world)
    for data in contents:
        want(data)
    sound()
    assert set(in_bucket(s3)) >= {digest(data) for data in contents}


def test_bytes_whose_deletion_is_under_way_are_refused(world: World, s3: S3) -> None:
    sha256 = orphan(world)
    s3.fault = lambda asked: 503 if asked.method == "DELETE" else None
    assert collect(world).problem
    s3.fault = lambda asked: None
    for staged in (None, world.store.staging / "again"):
        if staged is not None:
            staged.write_bytes(s3.objects[f"blobs/{sha256}"])
        with pytest.raises(Unavailable, match="again in some minutes"), world.database.write() as session:
            blobs.register(session, world.store, staged, sha256, len(s3.objects[f"blobs/{sha256}"]))


def test_an_object_stays_as_long_as_addresses_of_it_are_good(world: World, s3: S3) -> None:
    sha256 = orphan(world)
    collect(world, lent=timedelta(hours=1))
    collect(world, lent=timedelta(hours=1))
    assert sha256 in in_bucket(s3)
    with world.database.write() as session:
        session.get_one(Blob, sha256).doomed_at = now() - timedelta(hours=2)
    collect(world, lent=timedelta(hours=1))
    assert in_bucket(s3) == {}


def test_an_object_without_a_row_gets_one_and_is_collected(world: World, s3: S3) -> None:
    s3.keep(f"blobs/{digest(DATA)}", DATA)
    s3.keep("blobs/README", b"not ours")
    assert any("has no row" in problem for problem in damage.check(world.database, world.store))
    assert collect(world).orphans.count == 1
    collect(world)
    assert in_bucket(s3) == {} and "blobs/README" in s3.objects


def test_what_the_bucket_lost_is_found_marked_and_repaired_by_the_same_bytes(world: World, s3: S3) -> None:
    lost, cut, changed = (upload(world.client(), DATA[number:]) for number in range(3))
    del s3.objects[f"blobs/{lost}"]
    s3.keep(f"blobs/{cut}", b"less")
    s3.keep(f"blobs/{changed}", b"!" * (len(DATA) - 2))
    problems = list(damage.check(world.database, world.store))
    assert sorted(problem.split()[2] for problem in problems) == sorted([lost, cut, changed])
    with world.database.read() as session:
        assert damage.count(session) == 3
    for number in range(3):
        assert announce(world.client(), DATA[number:])["state"] == "open"
        upload(world.client(), DATA[number:])
    assert list(damage.check(world.database, world.store)) == []


def test_a_scrub_reads_the_bucket(world: World, s3: S3) -> None:
    sha256 = upload(world.client(), DATA)
    s3.keep(f"blobs/{sha256}", DATA[:-1] + b"?")
    with world.database.write() as session:
        session.get_one(Blob, sha256).checked_at = now() - timedelta(days=40)
    found = list(scrubbing.run(world.database, world.store, timedelta(days=30), threading.Event()))
    assert [(one.sha256, one.repaired) for one in found] == [(sha256, False)]


def test_one_object_that_is_not_sent_does_not_stop_a_scrub(world: World, s3: S3) -> None:
    digests = sorted(upload(world.client(), DATA[number:]) for number in range(3))
    with world.database.write() as session:
        for number, sha256 in enumerate(digests):
            session.get_one(Blob, sha256).checked_at = now() - timedelta(days=50 - number)
    s3.keep(f"blobs/{digests[1]}", b"?" * len(s3.objects[f"blobs/{digests[1]}"]))
    s3.fault = lambda asked: 500 if asked.method == "GET" and digests[0] in asked.path else None
    found = list(scrubbing.run(world.database, world.store, timedelta(days=30), threading.Event()))
    assert [one.sha256 for one in found] == [digests[1]]
    with world.database.read() as session:
        assert session.get_one(Blob, digests[2]).checked_at > now() - timedelta(hours=1)
    s3.fault = lambda asked: 500
    with world.database.write() as session:
        for sha256 in digests:
            session.get_one(Blob, sha256).checked_at = now() - timedelta(days=50)
    with pytest.raises(StorageFailed):
        list(scrubbing.run(world.database, world.store, timedelta(days=30), threading.Event()))


def test_in_a_bucket_that_is_not_found_nothing_is_marked(world: World, s3: S3) -> None:
    identity.claim(world.database, world.store)
    sha256 = upload(world.client(), DATA)
    s3.objects.clear()
    with pytest.raises(StorageFailed, match="has lost its registry-id"):
        damage.examine(world.database, world.store, sha256)
    with world.database.read() as session:
        assert damage.count(session) == 0

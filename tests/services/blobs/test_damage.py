"""A damaged blob is never sent with its good name, never used again, and repaired by the same bytes."""

import random
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from registry.db.tables import Blob, now
from registry.server.pages.frame.cookies import COOKIE
from registry.services.blobs import damage, scrubbing
from registry.services.people import sign_ins
from registry.storage import store as disk
from tests.support.blobs import orphan
from tests.support.community import NAME, URL, Community
from tests.support.s3_stand_in import S3, open_s3
from tests.support.world import World, announce, open_world, upload

pytestmark = pytest.mark.heavy

DATA = random.Random(3).randbytes(2500)
MONTH = timedelta(days=30)
SIZES: dict[str, Callable[[bytes], bytes | None]] = {
    "truncated": lambda raw: raw[:30],
    "emptied": lambda raw: b"",
    "longer": lambda raw: raw + b"x",
    "gone": lambda raw: None,
}


def flip(raw: bytes) -> bytes:
    """Change one bit in the middle."""
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


def harm(world: World, sha256: str, change: Callable[[bytes], bytes | None] = flip) -> bytes:
    """Damage the file of a blob; return what it held."""
    path = world.store.path(sha256)
    raw = path.read_bytes()
    path.unlink()
    if (changed := change(raw)) is not None:
        path.write_bytes(changed)
    return raw


def row(world: World, sha256: str) -> Blob:
    with world.database.read() as session:
        return session.get_one(Blob, sha256)


def age(world: World, sha256: str, by: timedelta) -> None:
    with world.database.write() as session:
        session.get_one(Blob, sha256).checked_at = now() - by


def scrub(world: World, period: timedelta = MONTH, **how: Any) -> list[scrubbing.Finding]:
    return list(scrubbing.run(world.database, world.store, period, threading.Event(), **how))


# Sending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SIZES)
def test_bytes_of_another_size_are_not_sent_by_any_route(crew: Community, kind: str) -> None:
    world, client = crew.world, crew.world.client("alice")
    sha256 = crew.patch(1)["sha256"]
    base = world.client(None).get(f"/{NAME}/resolve/main/model.safetensors").headers["etag"].strip('"')
    good = {digest: harm(world, digest, SIZES[kind]) for digest in (sha256, base)}
    urls = [
        f"{URL}/patches/1/file",
        f"/{NAME}/resolve/base/model.safetensors",
        f"{URL}/revisions/base/files/model.safetensors",
    ]
    assert "urn:breadcrumb:problem:blob-damaged" in client.get(urls[0]).text
    asked = [{}, {"Range": "bytes=0-9"}, {"If-None-Match": f'"{base}"'}]
    for url in urls:
        for headers in asked:
            answer = client.get(url, headers=headers)
            assert (answer.status_code, "operator was told" in answer.text) == (500, True), (url, answer.text)
            assert not {"etag", "repr-digest", "x-linked-etag"} & set(answer.headers)
        assert client.head(url).status_code == 500
    assert all(row(world, digest).damaged_at for digest in good)
    for raw in good.values():
        upload(client, raw)
    for url, digest in zip(urls, (sha256, base, base), strict=True):
        assert client.get(url).content == good[digest]


def test_a_damaged_card_or_config_is_not_shown_as_good(crew: Community) -> None:
    client = crew.world.client("alice")
    config = client.get(f"/{NAME}/resolve/base/config.json").headers["etag"].strip('"')
    harm(crew.world, config)
    answer = client.get(f"/api/models/{NAME}/revision/base")
    assert answer.status_code == 500
    assert config in answer.text
    assert row(crew.world, config).damaged_at


# Finding ---------------------------------------------------------------------------------------------------------


def test_a_scrub_reads_what_is_due_and_marks_one_flipped_bit(world: World) -> None:
    fresh, good, bad = orphan(world, b"fresh"), orphan(world, b"good"), orphan(world, DATA)
    for sha256 in (fresh, good, bad):
        harm(world, sha256, bytes if sha256 == good else flip)
    assert scrub(world) == []
    for sha256 in (good, bad):
        age(world, sha256, MONTH / 2)
    before = now()
    (found,) = scrub(world)
    assert (found.sha256, found.repaired) == (bad, False)
    assert "hash to something else" in str(found.problem)
    assert all((row(world, sha256).checked_at or before) >= before for sha256 in (good, bad))
    assert [bool(row(world, sha256).damaged_at) for sha256 in (fresh, good, bad)] == [False, False, True]
    assert scrub(world) == []


def test_a_blob_that_was_read_next_year_is_read_again(world: World) -> None:
    early, recent = orphan(world, b"early"), orphan(world, b"recent")
    for sha256 in (early, recent):
        harm(world, sha256, flip)
    age(world, early, timedelta(days=-365))
    age(world, recent, -scrubbing.RETRY / 2)
    assert [one.sha256 for one in scrub(world)] == [early]
    assert scrub(world) == []


def test_a_file_that_was_put_back_loses_its_mark(world: World) -> None:
    sha256 = orphan(world, DATA)
    raw = harm(world, sha256)
    assert len(list(damage.check(world.database, world.store))) == 1
    assert row(world, sha256).damaged_at
    world.store.path(sha256).write_bytes(raw)
    assert scrub(world) == []
    age(world, sha256, scrubbing.RETRY)
    assert scrub(world) == [scrubbing.Finding(sha256, None, True)]
    assert row(world, sha256).damaged_at is None


def test_of_two_workers_one_scrubs_and_one_that_stops_is_followed(world: World) -> None:
    every = {orphan(world, DATA + bytes([number])) for number in range(3)}
    for sha256 in every:
        harm(world, sha256)
        age(world, sha256, MONTH)
    stopping = threading.Event()
    run = scrubbing.run(world.database, world.store, MONTH, stopping)
    first = next(run)
    assert scrub(world) == []
    stopping.set()
    assert list(run) == []
    rest = scrub(world)
    assert {first.sha256, *(found.sha256 for found in rest)} == every
    assert len(rest) == 2


def test_a_pace_waits_and_ends_when_it_is_told_to() -> None:
    stopping, waited = threading.Event(), list[float]()
    stopping.wait = lambda seconds=None: bool(waited.append(seconds or 0))  # type: ignore[method-assign]
    pace = scrubbing.Pace(1000, stopping)
    pace(500, 1000)
    pace(1000, 1000)
    assert [round(seconds, 1) for seconds in waited] == [0.5, 1.0]


def test_a_file_that_is_replaced_while_it_is_hashed_is_hashed_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = orphan(world, DATA)
    harm(world, sha256)
    hashing = disk.hash_file

    def repaired_meanwhile(path: Path, *rest: Any) -> str:
        monkeypatch.undo()
        found = hashing(path, *rest)
        world.store.put([DATA])
        return found

    monkeypatch.setattr(disk, "hash_file", repaired_meanwhile)
    assert damage.examine(world.database, world.store, sha256) is None
    assert row(world, sha256).damaged_at is None


def test_a_worker_scrubs_after_its_sweep_and_the_operator_is_told(world: World) -> None:
    sha256 = orphan(world, DATA, leased_until=now() + MONTH)
    harm(world, sha256)
    age(world, sha256, MONTH)
    chief = world.client("chief", admin=True)
    assert chief.get("/api/v1/admin/summary").json()["damaged_blobs"] == 0
    world.worker.sweep()
    assert world.worker.swept.is_set()
    world.worker.scrub()
    assert chief.get("/api/v1/admin/summary").json()["damaged_blobs"] == 1
    assert "\nregistry_damaged_blobs 1.0\n" in chief.get("/metrics").text
    with world.database.write() as session:
        chief.cookies.set(COOKIE, sign_ins.start(session, world.token("chief")))
    del chief.headers["authorization"]
    assert "1 blob on the disk is damaged" in chief.get("/admin").text


# Repairing -------------------------------------------------------------------------------------------------------


def test_damaged_bytes_are_not_known_until_they_are_sent_again(world: World) -> None:
    client = world.client()
    sha256 = upload(client, DATA)
    assert announce(client, DATA)["state"] == "done"
    harm(world, sha256)
    assert announce(client, DATA)["state"] == "done"
    list(damage.check(world.database, world.store))
    refused = client.post("/api/v1/models", json={"name": "alice/m", "files": [{"path": "a.txt", "sha256": sha256}]})
    assert refused.status_code == 422
    assert announce(client, DATA)["state"] == "open"
    upload(client, DATA)
    assert row(world, sha256).damaged_at is None
    assert world.store.path(sha256).read_bytes() == DATA
    assert list(damage.check(world.database, world.store)) == []


def test_a_damaged_composition_is_composed_again(crew: Community) -> None:
    world = crew.world
    asked = {"alpha": "1", "patches": [{"number": 1}]}
    recipe = crew.post("bob", "/compositions", 202, **asked)["recipe"]["digest"]
    world.work()
    url = f"{URL}/revisions/{recipe}/files/model.safetensors"
    good = world.client().get(url)
    sha256 = good.headers["etag"].strip('"')
    harm(world, sha256)
    damage.examine(world.database, world.store, sha256)
    assert world.client().get(url).content == good.content, "composed while it is sent"
    crew.post("bob", "/compositions", 202, **asked)
    world.work()
    assert row(world, sha256).damaged_at is None
    assert world.client().get(url).content == good.content
    crew.post("bob", "/compositions", 200, **asked)


def test_a_damaged_ingredient_is_marked_by_the_job_that_finds_it(crew: Community) -> None:
    world, sha256 = crew.world, crew.patch(1)["sha256"]
    raw = harm(world, sha256)
    job = crew.post("bob", "/compositions", 202, alpha="1", patches=[{"number": 1}])
    world.work()
    assert row(world, sha256).damaged_at
    upload(world.client("bob"), raw)
    assert row(world, sha256).damaged_at is None
    assert job


@pytest.fixture
def bucketed(tmp_path: Path, migrated_url: str) -> Iterator[tuple[World, S3]]:
    """A registry with a bucket."""
    with open_s3() as s3, open_world(tmp_path / "data", migrated_url, **s3.settings("blobs")) as world:
        yield world, s3


def test_the_bucket_repairs_what_it_has(bucketed: tuple[World, S3]) -> None:
    world, s3 = bucketed
    rotten, lost, kept = (orphan(world, DATA + word, bucketed_at=now()) for word in (b"1", b"2", b"3"))
    for sha256, word in ((rotten, b"1"), (kept, b"3")):
        s3.keep(f"blobs/{sha256}", DATA + word)
    s3.keep(f"blobs/{lost}", b"other bytes")
    for sha256, change in ((rotten, flip), (lost, flip), (kept, SIZES["gone"])):
        harm(world, sha256, change)
        age(world, sha256, MONTH)
    found = {item.sha256: item.repaired for item in scrub(world, bucket=world.worker.bucket)}
    assert found == {rotten: True, lost: False, kept: True}
    assert [bool(row(world, sha256).damaged_at) for sha256 in (rotten, lost, kept)] == [False, True, False]
    assert world.store.path(rotten).read_bytes() == DATA + b"1"
    assert not list(world.store.staging.iterdir())

"""All blobs move from disk to a bucket and back, verified, while people go on; an interrupted move goes on, too."""

import json
import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from registry.cli import app
from registry.db.tables import Blob, RegistryId, now
from registry.errors import StorageFailed, Unavailable, WrongState
from registry.services.blobs import blobs, bucket_copies, damage, garbage, removal, stores
from registry.services.operating import identity, moving
from registry.storage.bucket import open_bucket
from registry.storage.bucket_store import BucketStore
from registry.storage.store import Store
from tests.support.s3_stand_in import CUT, S3
from tests.support.world import World, digest, open_world, upload

pytestmark = pytest.mark.heavy

DATA = random.Random(9).randbytes(3000)


@pytest.fixture
def world_settings(s3: S3) -> dict[str, Any]:
    """Blobs on disk, and a bucket."""
    return s3.settings("blobs")


@pytest.fixture
def world(world: World) -> World:
    world.token("alice")
    identity.claim(world.database, world.store)
    return world


def bucket_of(world: World) -> BucketStore:
    settings = world.settings
    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    store = stores.open_store(world.database, **{**settings.storage, "kind": "bucket"}, bucket=bucket)
    assert isinstance(store, BucketStore)
    store.prepare()
    store.own(str(world.store.owner()))
    return store


def kept_in(world: World) -> str:
    with world.database.read() as session:
        return session.scalars(select(RegistryId.storage)).one()


def test_all_goes_to_the_bucket_and_back(world: World, s3: S3, tmp_path: Path) -> None:
    digests, store = [upload(world.client(), DATA[number:]) for number in range(3)], bucket_of(world)
    with world.database.write() as session:
        session.get_one(Blob, digests[0]).bucketed_at = now()
    moved = moving.move(world.database, world.store, store)
    assert (moved.copied, moved.kept, moved.problems, kept_in(world)) == (3, 0, [], "bucket")
    assert {key.removeprefix("blobs/") for key in s3.objects} == {*digests, "registry-id"}
    with world.database.read() as session:
        assert bucket_copies.claimed(session) == {}, "there are no copies of the store"
    settings = world.settings.model_dump(exclude={"data", "database_url", "store"})
    with open_world(tmp_path / "other", world.settings.database, **settings, store="bucket") as other:
        other.tokens.update(world.tokens)
        late = upload(other.client(), b"late")
        assert list(damage.check(other.database, other.store)) == []
    back = moving.move(world.database, store, world.store)
    assert (back.copied, back.kept, back.problems, kept_in(world)) == (1, 3, [], "disk")
    assert world.store.read(late, 10) == b"late"
    assert list(damage.check(world.database, world.store)) == []
    with world.database.read() as session:
        assert all(blob.bucketed_at for blob in session.scalars(select(Blob))), "the bucket has copies now"


@pytest.mark.parametrize("fault", [500, CUT])
def test_an_interrupted_move_goes_on(world: World, s3: S3, fault: int) -> None:
    digests, store = {upload(world.client(), DATA[number:]) for number in range(4)}, bucket_of(world)
    s3.asked.clear()
    s3.fault = lambda asked: fault if s3.methods().count("PUT") > 2 else None
    with pytest.raises(StorageFailed):
        moving.move(world.database, world.store, store)
    assert kept_in(world) == "disk", "nothing has changed until all is there"
    s3.fault = lambda asked: None
    moved = moving.move(world.database, world.store, store)
    assert (moved.copied, moved.kept) == (2, 2)
    assert {key.removeprefix("blobs/") for key in s3.objects} >= digests


def test_what_is_stored_meanwhile_is_moved_too_and_afterwards_nothing_is(
    world: World, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(world.client(), DATA)
    store, placed, late = bucket_of(world), moving.place, list[str]()

    def place(*how: Any, **more: Any) -> Any:
        found = placed(*how, **more)
        if len(late) < 2:
            late.append(upload(world.client(), b"late" * (1 + len(late))))
        return found

    monkeypatch.setattr(moving, "place", place)
    assert moving.move(world.database, world.store, store).copied == 3
    assert {f"blobs/{sha256}" for sha256 in late} <= set(s3.objects)
    staged = world.store.staging / "x"
    staged.write_bytes(b"after")
    with pytest.raises(Unavailable, match="restart it with REGISTRY_STORE=bucket"), world.database.write() as session:
        blobs.register(session, world.store, staged, digest(b"after"), 5)
    path = world.store.path(late[0])
    path.unlink()
    assert damage.examine(world.database, world.store, late[0]) is None, "who looks in the old place marks nothing"
    before = dict(s3.objects)
    s3.keep(f"blobs/{'0' * 64}", b"stored by one that was restarted")
    assert world.worker.bucket is not None
    with pytest.raises(Unavailable, match="REGISTRY_STORE=bucket"):
        garbage.run(world.database, world.store, timedelta(0), bucket=world.worker.bucket)
    bucket_copies.withdraw(world.database, world.store, world.worker.bucket, now())
    bucket_copies.reconcile(world.database, world.store, world.worker.bucket, now())
    world.worker.offload()
    assert {key for key in before if key not in s3.objects} == set(), "who keeps copies deletes none"
    assert f"blobs/{'0' * 64}" in s3.objects


def test_a_damaged_blob_is_marked_and_does_not_keep_the_others(world: World, s3: S3) -> None:
    bad, good = upload(world.client(), DATA), upload(world.client(), DATA[1:])
    path = world.store.path(bad)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"?")
    moved = moving.move(world.database, world.store, bucket_of(world))
    assert [bad in problem for problem in moved.problems] == [True]
    assert kept_in(world) == "bucket" and f"blobs/{good}" in s3.objects and f"blobs/{bad}" not in s3.objects
    with world.database.read() as session:
        assert session.get_one(Blob, bad).damaged_at is not None


def test_what_is_repaired_while_others_are_moved_is_moved_too(
    world: World, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, *_ = (upload(world.client(), DATA[number:]) for number in range(3))
    world.store.path(bad).unlink()
    require_damaged = moving.require_damaged

    def repair(*how: Any) -> None:
        require_damaged(*how)
        assert upload(world.client(), DATA) == bad

    monkeypatch.setattr(moving, "require_damaged", repair)
    moving.move(world.database, world.store, bucket_of(world))
    with world.database.read() as session:
        assert session.get_one(Blob, bad).damaged_at is None
    assert s3.objects[f"blobs/{bad}"] == DATA


def test_what_a_collector_set_aside_before_it_was_killed_is_moved(world: World, s3: S3) -> None:
    sha256, _ = upload(world.client(), DATA), upload(world.client(), DATA[1:])
    world.store.set_aside(sha256)
    assert moving.move(world.database, world.store, bucket_of(world)).problems == []
    assert s3.objects[f"blobs/{sha256}"] == DATA


def test_what_was_damaged_and_is_put_back_is_moved(world: World, s3: S3) -> None:
    sha256 = upload(world.client(), DATA)
    with world.database.write() as session:
        session.get_one(Blob, sha256).damaged_at = now()
    moving.move(world.database, world.store, bucket_of(world))
    assert s3.objects[f"blobs/{sha256}"] == DATA


def test_what_went_bad_on_the_disk_that_was_left_is_brought_again(world: World, s3: S3) -> None:
    sha256, store = upload(world.client(), DATA), bucket_of(world)
    moving.move(world.database, world.store, store)
    path = world.store.path(sha256)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"?")
    assert moving.move(world.database, store, world.store).copied == 1
    assert world.store.read(sha256, len(DATA)) == DATA


def test_a_place_that_lacks_most_blobs_is_not_moved_from(world: World, s3: S3) -> None:
    digests = [upload(world.client(), DATA[number:]) for number in range(3)]
    for sha256 in digests[:2]:
        world.store.path(sha256).unlink()
    with pytest.raises(StorageFailed, match="lacks 2 of 3 blobs"):
        moving.move(world.database, world.store, bucket_of(world))
    with world.database.read() as session:
        assert (damage.count(session), kept_in(world)) == (0, "disk")


def test_who_runs_on_removes_nothing_from_a_bucket_that_was_left(world: World, s3: S3) -> None:
    sha256, store = upload(world.client(), DATA), bucket_of(world)
    moving.move(world.database, world.store, store)
    moving.move(world.database, store, world.store)
    with world.database.write() as session:
        blob = session.get_one(Blob, sha256)
        blob.state, blob.doomed_at = "computed", now()
    with pytest.raises(Unavailable, match="REGISTRY_STORE=disk"):
        removal.run(world.database, store, timedelta(0))
    with pytest.raises(Unavailable), world.database.write() as session:
        blobs.adopt(session, store, [sha256])
    assert f"blobs/{sha256}" in s3.objects


def test_a_folder_that_becomes_a_cache_does_not_pass_for_the_data_folder(world: World, s3: S3) -> None:
    upload(world.client(), DATA)
    store = bucket_of(world)
    moving.move(world.database, world.store, store)
    identity.claim(world.database, store)
    moving.move(world.database, store, Store(world.store.root))
    with pytest.raises(WrongState, match="is not the one of this registry"):
        identity.require_own(world.database, world.store)


def test_the_command_moves_and_says_what_to_do(world: World, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", world.database.engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("REGISTRY_DATA", str(world.settings.data))
    for name, value in s3.settings("blobs").items():
        monkeypatch.setenv(f"REGISTRY_{name.upper()}", value)

    def command(*words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, [*words])
        return found.exit_code, found.stdout + str(found.exception or "")

    sha256 = upload(world.client(), DATA)
    code, said = command("storage", "move", "bucket", "--json")
    assert (code, json.loads(said.partition("}")[0] + "}")["copied"]) == (0, 1)
    assert f"blobs/{sha256}" in s3.objects
    assert "are kept in s3://crumbs/blobs/ already" in command("storage", "move", "bucket")[1]
    assert "crumb-server storage move disk" in command("check")[1], "the settings say disk"
    monkeypatch.setenv("REGISTRY_STORE", "bucket")
    assert command("check")[0] == 0
    code, said = command("storage", "move", "disk")
    assert code == 0 and "restart servers and workers with REGISTRY_STORE=disk" in said
    assert "crumb-server storage move bucket" in command("gc")[1]

"""The bucket holds what the rows say, whatever fails on the way, and the disk stays authoritative."""

import json
import os
import random
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import select
from typer.testing import CliRunner

from registry.cli import app
from registry.db.tables import Blob, UploadSession, now
from registry.errors import BreadcrumbError, DigestMismatch, StorageFailed
from registry.services.blobs import blobs, bucket_copies, garbage
from registry.services.blobs.garbage import Amount
from registry.storage.bucket import Bucket
from registry.worker import worker as workers
from tests.support.blobs import NONE, collect, orphan, refer, unwanted
from tests.support.makers import make_checkpoint
from tests.support.s3_stand_in import CUT, S3, Asked
from tests.support.world import World, announce, create_model, put_part, upload

pytestmark = pytest.mark.heavy

LEAST, HOUR = 1000, timedelta(hours=1)
DATA = random.Random(2).randbytes(2 * LEAST)


@pytest.fixture
def world_settings(s3: S3) -> dict[str, Any]:
    """It has a bucket."""
    return {"bucket_least": LEAST, **s3.settings("blobs")}


@pytest.fixture
def world(world: World) -> World:
    world.token("alice")
    return world


def served(world: World, data: bytes = DATA) -> str:
    """Store bytes as the base of a model."""
    sha256 = orphan(world, data)
    with world.database.write() as session:
        refer(session, sha256)
    return sha256


def claimed(world: World) -> set[str]:
    """Return the blobs that the database says are in the bucket."""
    with world.database.read() as session:
        return set(session.scalars(select(Blob.sha256).where(Blob.bucketed_at.is_not(None))))


def bucket_of(world: World) -> Bucket:
    assert world.worker.bucket is not None
    return world.worker.bucket


def offload(world: World, **how: Any) -> list[BreadcrumbError | None]:
    return [found.error for found in bucket_copies.run(world.database, world.store, bucket_of(world), LEAST, **how)]


# Copying ---------------------------------------------------------------------------------------------------------


def test_what_may_be_downloaded_is_copied_once_and_nothing_else(world: World, s3: S3) -> None:
    large, least = served(world), served(world, DATA[:LEAST])
    served(world, DATA[: LEAST - 1])
    orphan(world, DATA[1:])
    announced = announce(world.client(), DATA[2:])
    put_part(world.client(), announced, DATA[2:], 0)
    upload(world.client(), DATA[3:])
    assert offload(world) == [None, None]
    assert s3.objects == {f"blobs/{large}": DATA, f"blobs/{least}": DATA[:LEAST]}
    assert claimed(world) == {large, least}
    s3.asked.clear()
    assert offload(world) == []
    assert s3.asked == []


def test_everything_but_an_upload_makes_bytes_somebodys_to_download() -> None:
    assert set(blobs.OWNERS) - set(bucket_copies.SERVED) == {UploadSession.sha256}


def test_a_bucket_that_keeps_less_than_it_took_is_found_out(world: World, s3: S3) -> None:
    served(world)
    s3.keep = lambda key, body: S3.keep(s3, key, body[:-1])  # type: ignore[method-assign]
    (error,) = offload(world)
    assert "does not have all of blob" in str(error)
    assert claimed(world) == set()


@pytest.mark.parametrize("fault", [503, 403, 404, CUT])
def test_a_bucket_that_fails_is_left_alone_and_tried_again(world: World, s3: S3, fault: int) -> None:
    served_ = {served(world, DATA + bytes([number])) for number in range(bucket_copies.MOST_FAILURES + 2)}
    s3.fault = lambda asked: fault
    errors = offload(world)
    assert len(errors) == bucket_copies.MOST_FAILURES
    assert all(isinstance(error, StorageFailed) and str(error).endswith(".") for error in errors)
    assert claimed(world) == set()
    s3.fault = lambda asked: None
    assert offload(world) == [None] * len(served_)
    assert claimed(world) == {key.removeprefix("blobs/") for key in s3.objects} == served_


def test_damaged_files_do_not_keep_others_from_being_copied(world: World) -> None:
    for number in range(bucket_copies.MOST_FAILURES + 1):
        path = world.store.path(served(world, DATA + bytes([number])))
        path.chmod(0o644)
        path.write_bytes(b"damaged")
    good = served(world)
    errors = offload(world)
    assert sum(isinstance(error, DigestMismatch) for error in errors) == bucket_copies.MOST_FAILURES + 1
    assert claimed(world) == {good}


def test_no_key_is_in_an_error_or_a_log(world: World, s3: S3, capfd: pytest.CaptureFixture[str]) -> None:
    sha256 = served(world)
    secret = s3.secret
    s3.secret = "another"
    with structlog.testing.capture_logs() as logs:
        world.worker.offload()
    (log,) = logs
    assert (log["event"], log["sha256"]) == ("bucket.failed", sha256)
    assert "SignatureDoesNotMatch" in log["error"]
    assert "REGISTRY_BUCKET_SECRET" in log["error"]
    world.worker.offload()  # and as it is written
    said = str(logs) + "".join(capfd.readouterr()) + repr(world.settings) + repr(world.worker.bucket)
    assert "bucket.failed" in said
    assert secret not in said
    assert s3.key_id not in str(logs)


def test_a_worker_copies_what_it_finds_when_it_starts(world: World, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "warm_up", lambda: None)
    sha256, asked = served(world), threading.Event()
    s3.fault = lambda asking: asked.set() if asking.method == "HEAD" and s3.objects else None
    thread = threading.Thread(target=world.worker.run)
    thread.start()
    assert asked.wait(20)
    world.worker.stopping.set()
    thread.join()
    assert claimed(world) == {sha256}


def test_a_worker_copies_again_what_a_bucket_older_than_the_database_lacks(world: World, s3: S3) -> None:
    kept, lost, cut = served(world), served(world, DATA[1:]), served(world, DATA[2:])
    offload(world)
    del s3.objects[f"blobs/{lost}"]
    s3.keep(f"blobs/{cut}", b"less")
    s3.keep(f"blobs/{'0' * 64}", b"without a row")
    before = dict(s3.objects)
    with world.store.holding(bucket_copies.LOCK):
        assert bucket_copies.find_lost(world.database, world.store, bucket_of(world)) == []
    s3.fault = lambda asked: 503 if asked.method == "GET" else None
    with structlog.testing.capture_logs() as logs:
        world.worker.offload()
    assert [log["event"] for log in logs] == ["bucket.failed"]
    assert (claimed(world), s3.objects) == ({kept, lost, cut}, before)
    s3.fault = lambda asked: None
    with structlog.testing.capture_logs() as logs:
        world.worker.offload()
    assert [(log["event"], log.get("blobs")) for log in logs if log["event"] == "bucket.lost"] == [("bucket.lost", 2)]
    assert s3.objects == before | {f"blobs/{lost}": DATA[1:], f"blobs/{cut}": DATA[2:]}
    assert claimed(world) == {kept, lost, cut}
    s3.asked.clear()
    world.worker.offload()
    assert s3.asked == [], "a worker looks once"


def test_only_one_process_copies_at_a_time(world: World, s3: S3) -> None:
    sha256 = served(world)
    found: list[Any] = []
    s3.fault = lambda asked: found.append(offload(world)) if asked.method == "PUT" else None
    assert offload(world) == [None]
    assert found == [[]]
    assert claimed(world) == {sha256}


def test_without_a_key_to_sign_with_a_file_comes_from_this_disk(world: World, s3: S3, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    offload(world)
    where = "/api/v1/models/alice/tiny/revisions/base/files/model.safetensors"
    assert world.client(None).get(where, follow_redirects=False).status_code == 302
    bucket = world.app.state.context.bucket

    def refuse(*_: object) -> str:
        raise StorageFailed("There is no key.")

    bucket.url = refuse
    answer = world.client(None).get(where, follow_redirects=False)
    assert (answer.status_code, answer.content) == (200, (base / "model.safetensors").read_bytes())


# Clearing away ---------------------------------------------------------------------------------------------------


def test_what_is_deleted_is_deleted_from_the_bucket_too(world: World, s3: S3) -> None:
    kept, gone = served(world), served(world, DATA[1:])
    offload(world)
    unwanted(world, gone)
    assert collect(world, HOUR).deleted == Amount()
    assert claimed(world) == {kept, gone}
    found = collect(world, orphans=False)
    assert (found.deleted, found.problem) == (Amount(1, len(DATA) - 1), "")
    assert list(s3.objects) == [f"blobs/{kept}"]
    assert claimed(world) == {kept}


def test_while_another_copies_what_is_in_the_bucket_stays_whole(world: World, s3: S3) -> None:
    sha256 = served(world)
    offload(world)
    unwanted(world, sha256)
    with world.store.holding(bucket_copies.LOCK) as held:
        assert held
        found = collect(world, orphans=False)
    assert (found.doomed.count, found.deleted.count, found.problem) == (1, 0, "")
    assert claimed(world) == {sha256}
    assert s3.objects
    assert world.store.exists(sha256)
    assert collect(world, orphans=False).deleted.count == 1
    assert not s3.objects


def test_a_blob_doomed_while_it_is_copied_is_not_left_in_the_bucket(world: World, s3: S3) -> None:
    sha256 = served(world)

    def doom(asked: Asked) -> None:
        if asked.method == "PUT":
            unwanted(world, sha256)
            with world.database.write() as session:
                garbage.doom(session, NONE)

    s3.fault = doom
    assert offload(world) == []
    assert s3.methods() == ["HEAD", "PUT", "HEAD", "DELETE"]
    assert s3.objects == {}
    assert claimed(world) == set()


def test_a_blob_wanted_again_at_any_step_is_copied_again(world: World, s3: S3) -> None:
    sha256 = served(world)
    offload(world)
    unwanted(world, sha256)
    with world.database.write() as session:
        garbage.doom(session, NONE)
    assert bucket_copies.disclaim_next(world.database, now()) == sha256
    assert bucket_copies.disclaim_next(world.database, now()) is None
    with world.database.write() as session:  # here the collector is killed, and somebody sends the bytes again
        assert blobs.lease(session, [sha256])
        refer(session, sha256)
    assert claimed(world) == set()
    assert offload(world) == [None]
    assert claimed(world) == {sha256}
    assert collect(world).deleted == Amount()
    assert s3.objects == {f"blobs/{sha256}": DATA}


def test_what_a_killed_collector_leaves_goes_after_the_grace(world: World, s3: S3) -> None:
    sha256 = served(world)
    offload(world)
    unwanted(world, sha256)
    with world.database.write() as session:
        garbage.doom(session, NONE)
    bucket_copies.disclaim_next(world.database, now())  # and killed
    s3.keep("blobs/README", b"not ours")
    s3.keep(f"elsewhere/{sha256}", b"not ours either")
    s3.modified["blobs/README"] -= 2 * HOUR
    s3.page = 1
    s3.modified[f"blobs/{sha256}"] -= HOUR
    assert collect(world, HOUR).strays == Amount(), "its row is still there"
    assert collect(world, orphans=False).deleted.count == 1
    s3.modified[f"blobs/{sha256}"] += HOUR
    assert collect(world, HOUR).strays == Amount(), "it is young"
    s3.modified[f"blobs/{sha256}"] -= HOUR
    assert collect(world, HOUR, dry=True).strays == Amount(1, len(DATA))
    assert f"blobs/{sha256}" in s3.objects
    assert collect(world, HOUR).strays == Amount(1, len(DATA))
    assert sorted(s3.objects) == ["blobs/README", f"elsewhere/{sha256}"]


def test_a_bucket_that_does_not_delete_keeps_row_and_file_of_what_it_has(world: World, s3: S3) -> None:
    several = {served(world, DATA + bytes([number])) for number in range(3)}
    offload(world)
    for sha256 in several:
        unwanted(world, sha256)
    loose = orphan(world)
    s3.fault = lambda asked: 503 if asked.method == "DELETE" else None
    found = collect(world)
    assert found.problem.startswith("The bucket did not delete")
    assert not world.store.exists(loose)
    assert len(claimed(world)) == 2
    assert all(world.store.exists(sha256) for sha256 in claimed(world))
    s3.fault = lambda asked: None
    assert collect(world).problem == ""
    assert s3.objects == {}
    assert not list(world.store.digests())


@pytest.mark.parametrize("seed", range(3))
def test_a_blob_whose_row_says_so_is_in_the_bucket_whatever_fails(world: World, s3: S3, seed: int) -> None:
    dice = random.Random(seed)
    contents = [DATA[number:] for number in range(4)]
    digests = [served(world, data) for data in contents]

    def sound() -> None:
        for sha256 in claimed(world):
            assert s3.objects.get(f"blobs/{sha256}") == contents[digests.index(sha256)]

    def want(number: int) -> None:
        with world.database.write() as session:
            there = blobs.lease(session, [digests[number]])
        if not there:
            orphan(world, contents[number])
        with world.database.write() as session:
            refer(session, digests[number])
            session.get_one(Blob, digests[number]).leased_until = now()

    for _ in range(40):
        limit = dice.randrange(8)
        s3.asked.clear()
        s3.fault = lambda asked, limit=limit: dice.choice([CUT, 500]) if len(s3.asked) > limit else None
        step = dice.randrange(6)
        if step == 0:
            want(dice.randrange(4))
        elif step == 1:
            unwanted(world, dice.choice(digests))
        elif step == 2:
            bucket_copies.disclaim_next(world.database, now())
        elif step == 3:
            collect(world, orphans=bool(dice.randrange(2)))
        else:
            offload(world)
        sound()
    s3.fault = lambda asked: None
    for number in range(4):
        want(number)
    collect(world)
    offload(world)
    sound()
    assert claimed(world) == set(digests)


# Commands --------------------------------------------------------------------------------------------------------


def test_check_names_what_the_bucket_has_lost_and_gc_lets_it_be_copied_again(
    world: World, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", world.database.engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("REGISTRY_DATA", str(world.settings.data))
    for name, value in s3.settings("blobs").items():
        monkeypatch.setenv(f"REGISTRY_{name.upper()}", value)

    def command(*words: str) -> tuple[int, Any]:
        found = CliRunner().invoke(app, [*words, "--json"])
        answer = json.loads(found.stdout)
        answer.pop("audit", None)
        return found.exit_code, answer

    kept, lost, cut = served(world), served(world, DATA[1:]), served(world, DATA[2:])
    offload(world)
    assert command("check") == (0, {"ok": True, "problems": []})
    del s3.objects[f"blobs/{lost}"]
    s3.keep(f"blobs/{cut}", b"less")
    code, found = command("check")
    assert code == 1
    assert sorted(found["problems"]) == sorted(
        [
            f"The bucket does not have blob {lost}; `crumb-server gc` lets a worker copy it again.",
            f"The bucket has 4 of {len(DATA) - 2} bytes of blob {cut}; `crumb-server gc` lets a worker copy it again.",
        ]
    )
    assert command("gc", "--dry-run")[1]["lost"] == 2
    assert claimed(world) == {kept, lost, cut}
    assert command("gc")[1]["lost"] == 2
    assert claimed(world) == {kept}
    assert offload(world) == [None, None]
    assert command("check") == (0, {"ok": True, "problems": []})
    s3.fault = lambda asked: CUT
    code, found = command("check")
    assert (code, len(found["problems"])) == (1, 1)
    assert "cannot be reached" in found["problems"][0]
    code, found = command("gc")
    assert code == 1
    assert "cannot be reached" in found["problem"]
    assert os.environ["REGISTRY_BUCKET_SECRET"] not in str(found)

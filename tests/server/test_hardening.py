"""What a hostile review found of jobs, reads and a registry at work, each as it was shown to go wrong."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from registry.db.tables import Blob, Job
from registry.errors import JobFailed
from registry.services.blobs import damage
from registry.services.queue import jobs
from registry.storage import store as disk
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.prepared import Fill, add_tiny
from tests.support.world import (
    World,
    create_model,
    digest,
    enqueue,
    open_world,
    push_patch,
    upload,
)

DATA = os.urandom(3000)
PATCHES = "/api/v1/models/alice/tiny/patches"


ON_SQLITE = pytest.mark.parametrize("database_kind", ["sqlite"])  # answers about files, where it decides nothing


def add_waiting_patch(world: World, folder: Path) -> None:
    """Add a base and a patch that waits to be checked."""
    add_tiny(world, folder)
    make_patch(folder / "base", fine_tuned(folder / "base", folder / "tuned"), folder / "patch.safetensors")
    client = world.client("bob")
    sha256 = upload(client, (folder / "patch.safetensors").read_bytes())
    client.post(PATCHES, json={"sha256": sha256, "title": "t"})


@pytest.fixture
def world_filling(request: pytest.FixtureRequest) -> Fill | None:
    return add_waiting_patch if "faults" in request.fixturenames else None


class Faults:
    """A base and a patch that waits to be checked."""

    def __init__(self, world: World) -> None:
        self.world = world

    def state(self) -> str:
        return str(self.world.client().get(f"{PATCHES}/1").json()["check"])

    def let_time_pass(self) -> None:
        with self.world.database.write() as session:
            for job in session.query(Job).filter(Job.state == "running"):
                job.lease_until = job.created_at


@pytest.fixture
def faults(world: World) -> Faults:
    return Faults(world)


def test_a_database_that_is_away_for_a_moment_refuses_no_patch(
    world: World, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("INSERT", {}, Exception("server closed the connection"))

    monkeypatch.setattr("registry.services.catalog.revisions.finish_check", away)
    assert world.worker.step()
    monkeypatch.undo()
    assert faults.state() == "checking"
    assert not world.worker.step(), "it waits before it tries again"
    faults.let_time_pass()
    assert world.worker.step()
    assert faults.state() == "checked"


def test_a_worker_stopped_together_with_its_process_refuses_no_patch(
    world: World, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service manager stops all processes of a group at once."""

    class Stopped:
        progress = 0.0

        def __init__(self, *_: object) -> None: ...

        def wait(self, _: float) -> None:
            threading.Timer(0.1, world.worker.stopping.set).start()
            raise JobFailed("The process of this job ended without a result (exit code 255).")

        def kill(self) -> None: ...

    monkeypatch.setattr("registry.worker.runner.Sandbox", Stopped)
    world.worker.run()
    assert faults.state() == "checking"
    with world.database.read() as session:
        job = session.query(Job).filter(Job.kind == "check").one()
        assert (job.state, job.deaths) == ("queued", 0)
    monkeypatch.undo()
    world.worker.stopping.clear()
    world.work()
    assert faults.state() == "checked"


def test_stopping_a_worker_often_is_no_death(world: World) -> None:
    enqueue(world, kind="check")
    for attempt in range(1, 30):
        with world.database.write() as session:
            claim = jobs.claim(session, "w", world.worker.lease)
            assert claim is not None
            assert (claim.attempt, claim.deaths) == (attempt, 0)
            jobs.release(session, claim)


def test_an_inner_failure_says_nothing_of_paths(
    world: World, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.database.write() as session:
        (sha256,) = session.execute(Blob.__table__.select().order_by(Blob.created_at.desc()).limit(1)).one()[:1]
    world.store.path(sha256).unlink()
    world.work()
    found = world.client(None).get(f"{PATCHES}/1").json()
    assert str(tmp_path) not in str(found)
    assert faults.state() == "checking", "bytes that the operator lost are no fault of the patch"


def test_a_composition_that_two_asked_for_is_not_one_persons_to_cancel(world: World, faults: Faults) -> None:
    world.work()
    url, body = "/api/v1/models/alice/tiny/compositions", {"patches": [{"number": 1}]}
    job = world.client("bob").post(url, json=body).json()["job"]["id"]
    assert world.client("carol").post(url, json=body).json()["job"]["id"] == job
    assert world.client("bob").post(f"/api/v1/jobs/{job}/cancel").status_code == 403
    world.work()
    assert world.client("carol").post(url, json=body).status_code == 200


def test_who_asks_again_revives_a_dying_job(world: World, faults: Faults) -> None:
    world.work()
    url, body = "/api/v1/models/alice/tiny/compositions", {"patches": [{"number": 1}]}
    job = world.client("bob").post(url, json=body).json()["job"]["id"]
    with world.database.write() as session:
        claim = jobs.claim(session, "w", world.worker.lease)
    assert claim is not None
    world.client("bob").post(f"/api/v1/jobs/{job}/cancel")
    world.client("dave").post(url, json=body)
    with world.database.write() as session:
        assert jobs.heartbeat(session, claim, 0.5, world.worker.lease) is False


def test_the_same_recipe_asked_of_two_models_at_once_is_no_conflict(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    for name in ("alice/tiny", "alice/twin"):
        create_model(world, name, base)
        push_patch(world, name, tmp_path / "patch.safetensors")
    answers: list[int] = []

    def ask(name: str) -> None:
        for alpha in range(1, 9):
            body = {"alpha": f"0.{alpha}", "patches": [{"number": 1}]}
            answers.append(world.client("bob").post(f"/api/v1/models/{name}/compositions", json=body).status_code)

    world.token("bob")
    threads = [threading.Thread(target=ask, args=(name,)) for name in ("alice/tiny", "alice/twin")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [202] * 16


def test_reading_does_not_depend_on_writing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("database or disk is full"))

    client = world.client()
    monkeypatch.setattr("registry.services.people.actors.record_use", full)
    assert client.get("/api/v1/whoami").status_code == 200


@ON_SQLITE
def test_invented_methods_are_one_label(world: World) -> None:
    client = world.client(None)
    for number in range(5):
        client.request(f"INVENTED{number}", "/healthz")
    assert "INVENTED" not in world.client("chief", admin=True).get("/metrics").text


@ON_SQLITE
def test_a_wrong_range_says_how_long_the_file_is(world: World, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    (folder / "empty.txt").touch()
    create_model(world, "alice/tiny", folder)
    url = "/api/v1/models/alice/tiny/revisions/base/files/"
    size = (folder / "config.json").stat().st_size
    beyond = world.client(None).get(url + "config.json", headers={"Range": "bytes=999999-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{size}")
    outdated = {"Range": "bytes=999999-", "If-Range": '"another"'}
    assert world.client(None).get(url + "config.json", headers=outdated).status_code == 200
    nothing = world.client(None).get(url + "empty.txt", headers={"Range": "bytes=-5"})
    assert (nothing.status_code, nothing.headers["content-type"]) == (416, "application/problem+json")


@ON_SQLITE
def test_conditions_on_a_file_are_answered_by_its_digest_and_never_by_a_date(world: World, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", folder)
    url, client = "/api/v1/models/alice/tiny/revisions/base/files/config.json", world.client(None)
    whole = client.get(url)
    etag = whole.headers["etag"]
    assert "last-modified" not in whole.headers
    past, future = "Thu, 01 Jan 1970 00:00:00 GMT", "Thu, 01 Jan 2099 00:00:00 GMT"
    for headers, status in (
        ({"If-Match": etag}, 200),
        ({"If-Match": f'"another", {etag}'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"another"'}, 412),
        ({"If-Match": f"W/{etag}"}, 412),
        ({"If-Match": '"another"', "If-None-Match": etag}, 412),
        ({"If-Match": etag, "If-None-Match": etag}, 304),
        ({"If-None-Match": f"W/{etag}"}, 304),
        ({"If-Match": etag, "Range": "bytes=0-0"}, 206),
        ({"If-Range": etag, "Range": "bytes=0-0"}, 206),
        ({"If-Range": future, "Range": "bytes=0-0"}, 200),
        ({"If-Unmodified-Since": past}, 200),
        ({"If-Modified-Since": future}, 200),
    ):
        answer = client.get(url, headers=headers)
        assert answer.status_code == status, headers
        assert status != 412 or answer.json()["field"] == "If-Match"
        assert client.head(url, headers=headers).status_code == status


def test_checking_beside_a_working_registry_finds_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blob that comes while the others are hashed is no stranger."""
    upload(world.client(), DATA)
    hashing = disk.hash_file

    def busy(path: Path, *rest: Any) -> str:
        upload(world.client(), b"another")
        return hashing(path, *rest)

    monkeypatch.setattr(disk, "hash_file", busy)
    assert list(damage.check(world.database, world.store)) == []
    assert world.store.exists(digest(b"another"))


def test_a_stray_file_or_a_sleeping_database_does_not_end_the_worker(
    tmp_path: Path, migrated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_world(tmp_path / "data", migrated_url, poll_seconds=0.01) as world:
        tries: list[int] = []
        recover = world.worker.recover

        def flaky() -> None:
            tries.append(1)
            if len(tries) < 3:
                raise OperationalError("SELECT", {}, Exception("not yet"))
            recover()
            world.worker.stopping.set()

        monkeypatch.setattr(world.worker, "recover", flaky)
        sha256 = upload(world.client(), DATA)
        (world.store.path(sha256).parent / ".nfs0000").touch()
        world.worker.run()
        assert len(tries) == 3

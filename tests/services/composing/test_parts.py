"""Parts of a composition: what a worker has composed when it dies is not composed again, and must not differ."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.db.tables import AuditEvent, BaseFile, Blob, Build, Composition, Job, JobPart, Recipe, now
from registry.services.blobs import garbage
from registry.services.composing import builds, holding, parts
from registry.services.queue import jobs
from registry.worker import composing, executing
from registry.worker.worker import Worker
from tests.support import launcher
from tests.support.launcher import SERVER
from tests.support.makers import fine_tuned, local_digest, make_checkpoint, make_patch
from tests.support.prepared import Fill
from tests.support.processes import until
from tests.support.world import World, create_model, push_patch

pytestmark = pytest.mark.heavy

URL = "/api/v1/models/alice/tiny"
LAST = "model-00003-of-00003.safetensors"


class Died(BaseException):
    """What stands for kill -9: nothing is tidied up."""


def add_sharded(world: World, folder: Path) -> None:
    """Add a model of three weight files and a patch of it."""
    base = make_checkpoint(folder / "base", shards=3)
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, folder / "tuned"), folder / "patch.safetensors")
    push_patch(world, "alice/tiny", folder / "patch.safetensors")


@pytest.fixture
def world_filling(request: pytest.FixtureRequest) -> Fill | None:
    return add_sharded if "sharded" in request.fixturenames else None


@pytest.fixture
def sharded(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A model of three weight files, of which a worker composes one at a time, and a patch of it."""
    monkeypatch.setattr(composing, "AT_ONCE", 1)
    monkeypatch.setattr(executing, "AT_ONCE", 1)
    return world


def ask(world: World) -> dict[str, Any]:
    body = {"alpha": "0.3", "patches": [{"number": 1, "weight": "1"}]}
    answer = world.client("bob").post(f"{URL}/compositions", json=body)
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def rows(world: World, kind: type[Any]) -> Any:
    with world.database.read() as session:
        return session.scalars(select(kind).order_by(kind.created_at)).all()


def end_lease(world: World) -> None:
    with world.database.write() as session:
        session.scalars(select(Job).where(Job.state == "running")).one().lease_until = now() - timedelta(seconds=1)


@contextmanager
def dying_after(worker: Worker, count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Have a worker die as soon as it has recorded some parts; yield the paths of those that it records."""
    recorded, record = list[str](), worker.record

    def recording(claim: Any, recipe: Any, part: Any, staged: Any, **options: Any) -> None:
        record(claim, recipe, part, staged, **options)
        recorded.append(part.path)
        if len(recorded) == count:
            raise Died

    with monkeypatch.context() as patched:
        patched.setattr(worker, "record", recording)
        yield recorded


def die_after_two(world: World, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    asked = ask(world)
    with dying_after(world.worker, 2, monkeypatch), pytest.raises(Died):
        world.worker.step()
    return asked


def test_another_worker_goes_on_with_the_files_that_are_missing(
    sharded: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = die_after_two(sharded, monkeypatch)
    first, second = rows(sharded, JobPart)
    assert {part.builder for part in (first, second)} == {sharded.worker.name}
    assert [part.blob_sha256 for part in (first, second)] == [first.sha256, second.sha256]
    with sharded.database.write() as session:  # a day later, say
        for blob in session.scalars(select(Blob).where(Blob.sha256.in_([first.sha256, second.sha256]))):
            blob.leased_until = now() - timedelta(days=1)
    for _ in range(2):
        garbage.run(sharded.database, sharded.store, timedelta(0))
    assert sharded.store.exists(first.sha256), "it stays as long as the job lives"
    end_lease(sharded)
    weights = select(BaseFile.sha256).where(BaseFile.path.endswith(".safetensors"))
    with sharded.database.read() as session:
        size = sum(session.scalars(select(Blob.size).where(Blob.sha256.in_(weights))))
    bounded = sharded.settings.model_copy(update={"composed_bytes": size})
    other = Worker(bounded, sharded.database, sharded.store)
    with dying_after(other, 9, monkeypatch) as recorded:
        assert other.step()
    assert recorded == [LAST]
    done = ask(sharded)
    assert done["weights_digest"] == local_digest(tmp_path, asked["recipe"])
    assert rows(sharded, JobPart) == [] == parts.check(sharded.database)
    (build,) = rows(sharded, Build)
    assert (build.builder, build.nodes) == (other.name, sorted([sharded.worker.name, other.name]))
    (composition,) = rows(sharded, Composition)
    assert composition.held
    files = sharded.client(None).get(f"{URL}/revisions/{asked['recipe']['digest']}").json()["files"]
    assert all(sharded.store.exists(file["sha256"]) for file in files)

    with sharded.database.write() as session:  # both have a share in it, so neither is somebody else
        model = session.get_one(composing.models.Model, composition.model_id)
        digest = composition.recipe_digest
        jobs.enqueue(session, model.creator_id, "rebuild", "again", model, digest, {"recipe": digest})
    assert sharded.worker.step()
    (job,) = [job for job in rows(sharded, Job) if job.kind == "rebuild"]
    assert job.error == "This waits for another builder: this worker has composed parts of it."
    assert (job.state, job.deaths) == ("running", -1)
    end_lease(sharded)
    third = Worker(sharded.settings, sharded.database, sharded.store)
    monkeypatch.setattr(third, "record", lambda *_, **__: pytest.fail("It uses no parts."))
    assert third.step()
    assert [build.builder for build in rows(sharded, Build)] == [other.name, third.name]
    assert {build.weights_digest for build in rows(sharded, Build)} == {done["weights_digest"]}


def test_two_results_of_one_part_are_the_alarm(sharded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = die_after_two(sharded, monkeypatch)["recipe"]["digest"]
    with sharded.database.write() as session:
        job = session.scalars(select(Job).where(Job.kind == "compose")).one()
        part = session.scalars(select(JobPart).order_by(JobPart.path)).first()
        assert part is not None
        claim = jobs.Claim(job.id, job.attempt, 0, job.kind, job.model, job.subject, job.payload)
        tensors = dict.fromkeys(part.tensors, "0" * 64)
        wrong = parts.ComposedPart(part.path, "1" * 64, part.size, tensors, {}, "a broken machine", "cpu", 1.0)
        model = sharded.worker.model(session, claim)
        session.refresh(model, ["namespace"])
        assert not parts.add(session, sharded.store, claim, model, recipe, wrong, None, stored=False)
        assert parts.add(session, sharded.store, claim, model, recipe, wrong, None, stored=False), "it is known"
        build = session, model, recipe, "a broken machine", None, "sha256:" + "2" * 64, "cpu"
        builds.add(*build)
    end_lease(sharded)
    assert sharded.worker.step()
    job = rows(sharded, Job)[-1]
    assert job.state == "failed"
    assert job.error.startswith(f"ALARM: weight file {part.path} was composed to different results")
    assert f"a broken machine again came to {'1' * 64}" in job.error, "it came to something else before"
    assert rows(sharded, JobPart) == [] == rows(sharded, Composition)
    (event,) = [event for event in events(sharded) if event.action == "recipe.alarm"]
    assert event.after["results"] == {part.sha256: sharded.worker.name, "1" * 64: "a broken machine"}
    with sharded.database.read() as session:
        assert session.get_one(Recipe, recipe).disputed
        model = session.get_one(composing.models.Model, rows(sharded, Build)[0].model_id)
        assert len(builds.disagree(session, model, recipe)) == 3, "nothing is published on it"
    ask(sharded)
    assert sharded.worker.step(), "composed again by one, it is right; the alarm stays"
    with sharded.database.read() as session:
        right = session.scalars(select(Composition)).one().weights_digest
        assert right in builds.disagree(session, model, recipe)


def events(world: World) -> Any:
    with world.database.read() as session:
        return session.scalars(select(AuditEvent).order_by(AuditEvent.serial)).all()


def test_a_job_that_is_cancelled_lets_go_of_its_parts(sharded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = die_after_two(sharded, monkeypatch)["job"]
    stored = [part.sha256 for part in rows(sharded, JobPart)]
    with sharded.database.write() as session:
        jobs.release(session, jobs.Claim(session.scalars(select(Job.id).where(Job.kind == "compose")).one(), 1, 0,
                                         "compose", "", "", {}))  # fmt: skip
    assert sharded.client("bob").post(f"/api/v1/jobs/{job['id']}/cancel").status_code == 200
    with sharded.database.read() as session:
        assert holding.part_bytes(session) == sum(session.get_one(Blob, sha256).size for sha256 in stored)
    assert not holding.make_room(sharded.database, sharded.store, 1, 1), "they count"
    assert parts.check(sharded.database) == [], "a worker's next sweep is soon"
    sharded.worker.sweep()
    assert rows(sharded, JobPart) == []
    assert not any(map(sharded.store.exists, stored)), "though they are leased"
    assert holding.make_room(sharded.database, sharded.store, 1, 1)


def test_parts_of_a_job_that_is_over_are_told_and_forgotten(sharded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of the version before knows nothing of them."""
    die_after_two(sharded, monkeypatch)
    with sharded.database.write() as session:
        session.scalars(select(Job).where(Job.kind == "compose")).one().state = "failed"
    told = parts.check(sharded.database)
    assert len(told) == 2
    assert "is over, and its part model-00001-of-00003.safetensors is still recorded" in told[0]
    sharded.worker.sweep()
    assert rows(sharded, JobPart) == []


def test_parts_that_are_damaged_or_not_here_are_composed_again(sharded: World, monkeypatch: pytest.MonkeyPatch) -> None:
    die_after_two(sharded, monkeypatch)
    first, second = rows(sharded, JobPart)
    with sharded.database.write() as session:
        session.get_one(Blob, first.sha256).damaged_at = now()
        for row in session.scalars(select(JobPart).where(JobPart.sha256 == second.sha256)):
            row.blob_sha256 = None  # composed where there was no room for it
    end_lease(sharded)
    with dying_after(sharded.worker, 9, monkeypatch) as recorded:
        assert sharded.worker.step()
    assert recorded == [first.path, second.path, LAST]
    with sharded.database.read() as session:
        assert session.get_one(Blob, first.sha256).damaged_at is None
        assert session.scalars(select(Composition)).one().held
        assert session.scalars(select(Build)).one().nodes is None, "all of it is one worker's"


def test_where_there_is_no_room_the_digests_of_parts_are_kept(
    sharded: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composing.holding, "make_room", lambda *_: False)
    asked = die_after_two(sharded, monkeypatch)
    assert {part.blob_sha256 for part in rows(sharded, JobPart)} == {None}
    end_lease(sharded)
    with dying_after(sharded.worker, 9, monkeypatch) as recorded:
        assert sharded.worker.step()
    assert recorded == [LAST]
    done = ask(sharded)
    assert done["weights_digest"] == local_digest(tmp_path, asked["recipe"])
    (composition,) = rows(sharded, Composition)
    assert not composition.held


@pytest.mark.slow
@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_worker_that_is_killed_leaves_to_another_what_it_has_not_recorded(world: World, tmp_path: Path) -> None:
    """`kill -9` of a worker in a process of its own, as soon as it has recorded some of its files."""
    base = make_checkpoint(
        tmp_path / "base", shards=12, shapes={f"layer.{n:02}.weight": (1024, 1024) for n in range(12)}
    )
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    recipe = ask(world)["recipe"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("REGISTRY_", "CRUMB_"))}
    environment["DATABASE_URL"] = world.settings.database
    with (tmp_path / "log").open("w") as log:
        command = ["worker", "--data", str(world.settings.data)]
        process = launcher.start(SERVER, command, environment, stdout=log.fileno(), stderr=log.fileno())
    try:
        until(lambda: rows(world, JobPart))
    finally:
        process.kill()
        process.wait()
    left = {part.path for part in rows(world, JobPart)}
    files = set(json.loads((base / "model.safetensors.index.json").read_text())["weight_map"].values())
    assert left < files
    end_lease(world)
    recorded, record = set[str](), world.worker.record

    def recording(claim: Any, composed: Any, part: Any, *options: Any, **more: Any) -> None:
        recorded.add(part.path)
        record(claim, composed, part, *options, **more)

    world.worker.record = recording  # type: ignore[method-assign]
    assert world.worker.step()
    assert recorded == files - left
    assert ask(world)["weights_digest"] == local_digest(tmp_path, recipe)
    (build,) = rows(world, Build)
    assert len(build.nodes) == 2

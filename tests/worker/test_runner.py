"""What every job is run with: a sandbox, heartbeats meanwhile, and a base at hand."""

import threading
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from registry.db.tables import Job, now
from registry.errors import InvalidPatch, JobCancelled, JobFailed, StorageFull, Unavailable
from registry.services.catalog.hub_bases import HubFile
from registry.services.queue import jobs
from registry.worker.runner import Hung, Runner, Stillness, Stopped
from tests.support.processes import until
from tests.support.world import World, enqueue

ANSWER, WORK, REFUSE, STAND_STILL, COUNT = (
    f"tests.support.sandboxed:{name}" for name in ("answer", "work", "refuse", "stand_still", "count")
)
LEASE = timedelta(seconds=60)
SOURCE = "hf://org/name@main"


@pytest.fixture
def world_settings() -> dict[str, Any]:
    """Heartbeats ten times a second, and longer leases than any test."""
    return {"lease_seconds": 0.4}


@pytest.fixture
def runner(world: World) -> Runner:
    made = Runner(world.settings, world.database, world.store)
    made.lease = LEASE
    return made


@pytest.fixture
def claim(world: World, runner: Runner) -> jobs.Claim:
    enqueue(world)
    with world.database.write() as session:
        found = jobs.claim(session, runner.name, LEASE)
    assert found is not None
    return found


class Working:
    """A task that never ends, run on a thread of its own; `error` is what ended it."""

    def __init__(self, runner: Runner, claim: jobs.Claim, tmp_path: Path, **how: Any) -> None:
        self.file, self.error = tmp_path / "pid", None
        self.thread = threading.Thread(target=self.run, args=(runner, claim, how))
        self.thread.start()

    def run(self, runner: Runner, claim: jobs.Claim, how: dict[str, Any]) -> None:
        try:
            runner.in_sandbox(claim, WORK, path=str(self.file), **how)
        except Exception as error:
            self.error = error

    def end(self) -> Exception | None:
        """Wait until it has ended and its process with it; return what ended it."""
        self.thread.join(60)
        assert not self.thread.is_alive()
        assert not Path(f"/proc/{self.file.read_text()}").exists()
        return self.error


def job(world: World, claim: jobs.Claim) -> Job:
    with world.database.read() as session:
        return session.get_one(Job, claim.job_id)


def test_a_task_tells_its_progress_and_extends_the_lease_until_the_job_is_cancelled(
    world: World, runner: Runner, claim: jobs.Claim, tmp_path: Path
) -> None:
    with world.database.write() as session:
        session.get_one(Job, claim.job_id).lease_until = now() + timedelta(seconds=20)
    working = Working(runner, claim, tmp_path, done=(0.5, 0.25))
    until(lambda: job(world, claim).progress > 0.5)
    assert job(world, claim).progress <= 0.75
    assert job(world, claim).lease_until > now() + timedelta(seconds=30)
    with world.database.write() as session:
        session.get_one(Job, claim.job_id).cancel_requested = True
    assert isinstance(working.end(), JobCancelled)


def test_a_task_whose_job_another_worker_has_taken_is_killed(
    world: World, runner: Runner, claim: jobs.Claim, tmp_path: Path
) -> None:
    working = Working(runner, claim, tmp_path)
    until(lambda: job(world, claim).progress > 0)
    with world.database.write() as session:
        session.get_one(Job, claim.job_id).attempt += 1
    assert isinstance(working.end(), jobs.LeaseLost)
    assert job(world, claim).state == "running"


def test_a_task_is_killed_when_the_worker_is_stopped(
    world: World, runner: Runner, claim: jobs.Claim, tmp_path: Path
) -> None:
    working = Working(runner, claim, tmp_path)
    until(lambda: job(world, claim).progress > 0)
    runner.stopping.set()
    assert isinstance(working.end(), Stopped)


def test_a_task_that_stands_still_is_killed_and_the_job_is_tried_again(
    world: World, runner: Runner, claim: jobs.Claim, tmp_path: Path
) -> None:
    runner.settings = world.settings.model_copy(update={"job_still_seconds": 0.5})
    pid = tmp_path / "pid"
    with pytest.raises(Hung, match=r"for 0\.5 seconds, at 25%"):
        runner.in_sandbox(claim, STAND_STILL, path=str(pid))
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_a_task_that_only_uses_the_processor_of_a_child_does_not_stand_still(
    world: World, runner: Runner, claim: jobs.Claim
) -> None:
    runner.settings = world.settings.model_copy(update={"job_still_seconds": 0.5})
    assert runner.in_sandbox(claim, COUNT, until=1.5) == "counted"


def test_standing_still_is_measured_from_the_last_change_and_not_at_all_where_nothing_is_known() -> None:
    clock = [0.0]
    stillness = Stillness(10, lambda: clock[0])
    seen = []
    for at, activity in [(1, (0.0, 5)), (10, (0.0, 5)), (11, (0.0, 6)), (20, (0.0, 6)), (21, (0.0, 6))]:
        clock[0] = at
        seen.append(stillness.look(activity))
    assert seen == [False, False, False, False, True]
    clock[0] = 1000
    assert not stillness.look(None)
    never = Stillness(0, lambda: clock[0])
    clock[0] = 10**9
    assert not never.look((0.0, 5))


def test_a_task_that_writes_is_killed_when_it_leaves_no_room_for_the_database(
    world: World, runner: Runner, claim: jobs.Claim, tmp_path: Path
) -> None:
    working = Working(runner, claim, tmp_path, grows=True)
    until(lambda: job(world, claim).progress > 0)
    runner.store.reserve = 2**62
    assert isinstance(working.end(), StorageFull)


def test_a_process_is_kept_only_when_asked_and_only_after_a_result(runner: Runner, claim: jobs.Claim) -> None:
    first = runner.in_sandbox(claim, ANSWER, keep=True, value=1)
    assert runner.kept is not None
    assert runner.in_sandbox(claim, ANSWER, value=2)["pid"] != first["pid"]
    assert runner.in_sandbox(claim, ANSWER, keep=True, value=3)["pid"] == first["pid"]
    with pytest.raises(JobFailed, match="TypeError"):
        runner.in_sandbox(claim, ANSWER, keep=True, unknown=4)
    assert runner.kept is None
    with pytest.raises(InvalidPatch):
        runner.in_sandbox(claim, REFUSE, keep=True)
    assert runner.kept is None
    again = runner.in_sandbox(claim, ANSWER, keep=True, value=5)
    assert again["pid"] != first["pid"]
    assert runner.kept is not None
    runner.kept.kill()


def test_files_of_a_base_are_fetched_until_all_are_there_and_the_cache_is_trimmed_after_use(
    runner: Runner, claim: jobs.Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub knows a small file by an id of git's alone; what it hashes to is known when it has come."""
    large, small, git = HubFile("model.safetensors", 5, "a" * 64), HubFile("config.json", 2, "b" * 40), "c" * 64
    asked: list[list[str]] = []
    trimmed: list[int] = []

    def fetch(_claim: Any, _function: str, **how: Any) -> dict[str, str]:
        asked.append([path for path, _, _ in how["files"]])
        runner.cache.folder.mkdir(exist_ok=True)
        if len(asked) == 1:
            return {small.name: git}  # somebody throws both away at once
        for name in (large.name, git):
            runner.cache.path(name).write_bytes(b"bytes")
        return {}

    monkeypatch.setattr(runner, "in_sandbox", fetch)
    monkeypatch.setattr(type(runner.cache), "trim", lambda _, most: trimmed.append(most))
    with runner.fetched(claim, SOURCE, [large, small]) as files:
        assert [file.name for file in files] == [large.name, git]
        assert trimmed == []
        assert runner.readable({"config.json": git, "notes.txt": large.name}) == {
            "config.json": str(runner.cache.path(git))
        }
    assert asked == [[large.path, small.path], [large.path, small.path]]
    assert trimmed == [runner.settings.cache_bytes]


def test_a_base_that_never_stays_in_the_cache_is_given_up_with_a_sentence(
    runner: Runner, claim: jobs.Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(runner, "in_sandbox", lambda _claim, function, **_: asked.append(function) or {})
    with (
        pytest.raises(Unavailable, match="no room"),
        runner.fetched(claim, SOURCE, [HubFile("model.safetensors", 5, "a" * 64)]),
    ):
        pytest.fail("the file is not there")
    assert len(asked) == 3


def test_files_among_the_blobs_are_not_fetched_and_cached_ones_are_held_while_in_use(
    world: World, runner: Runner, claim: jobs.Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob, _ = world.store.put([b"a blob"])
    runner.cache.folder.mkdir()
    cached = "d" * 64
    runner.cache.path(cached).write_bytes(b"cached")
    monkeypatch.setattr(runner, "in_sandbox", lambda *_, **__: pytest.fail("fetched"))
    wanted = [HubFile("model.safetensors", 6, blob), HubFile("config.json", 6, cached)]
    with ExitStack() as stack:
        assert stack.enter_context(runner.fetched(claim, SOURCE, wanted)) == wanted
        assert runner.cache.trim(0) == 0
    assert runner.cache.trim(0) == 6
    assert runner.readable({"model.safetensors": blob}) == {"model.safetensors": str(world.store.path(blob))}


def test_a_worker_says_so_if_strangers_files_are_read_where_the_network_is(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = CapturingLogger()
    monkeypatch.setattr("registry.worker.runner.log", log)
    runner.look_at_fence()
    assert log.calls == []
    monkeypatch.setattr("registry.worker.runner.IS_FENCED", "tests.support.sandboxed:fence_is_open")
    runner.look_at_fence()
    assert [(call.method_name, *call.args) for call in log.calls] == [("warning", "worker.no_fence")]

"""The worker's loop: what becomes of a job when its work ends, fails, or is no longer the worker's."""

import errno
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from registry.db.notifications import Watch
from registry.db.session import Database, open_database
from registry.db.tables import Job, now
from registry.errors import InvalidRequest, JobCancelled, NotFinite, StorageFailed, StorageFull, Unavailable
from registry.services.queue import jobs
from registry.worker import checking
from registry.worker.runner import Hung, Stopped
from registry.worker.worker import DISK_REST, Worker
from tests.support.world import World, enqueue

DISK = StorageFull("The disk of the data folder is full.")


def fail(world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, work: str = "compose") -> None:
    """Let the work of a kind of job end with an error."""

    def raising(*_: Worker | jobs.Claim) -> None:
        raise error

    monkeypatch.setattr(checking if work == "check_patch" else world.worker, work, raising)


def find(world: World, job: Job) -> Job:
    with world.database.read() as session:
        return session.get_one(Job, job.id)


def test_without_a_job_there_is_nothing_to_do(world: World) -> None:
    assert world.worker.step() is False


@pytest.mark.parametrize(
    ("error", "state", "sentence"),
    [
        (NotFinite("The weight 'w' is not finite."), "failed", "The weight 'w' is not finite."),
        (InvalidRequest("It cannot be."), "failed", "It cannot be."),
        (JobCancelled("The job was cancelled."), "cancelled", None),
        (DISK, "failed", str(DISK)),  # who asked for a composition can ask again
    ],
)
def test_a_job_that_cannot_be_done_ends_with_a_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str, sentence: str | None
) -> None:
    (job,) = enqueue(world)
    fail(world, monkeypatch, error)
    assert world.worker.step() is True
    found = find(world, job)
    assert (found.state, found.error, found.lease_until) == (state, sentence, None)
    assert world.worker.step() is False


def hung(world: World) -> int:
    (line,) = re.findall(
        r"^registry_hung_jobs (\d+)\.0$", world.client("root", admin=True).get("/metrics").text, re.MULTILINE
    )
    return int(line)


def test_a_job_that_hangs_is_tried_again_and_in_the_end_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = enqueue(world)
    fail(world, monkeypatch, Hung("Its process stood still."))
    for attempt in (1, 2):
        assert world.worker.step() is True
        found = find(world, job)
        assert (found.state, found.attempt, found.error) == ("running", attempt, "It hung: Its process stood still.")
        assert world.worker.step() is False, "it rests"
        assert hung(world) == 1
        with world.database.write() as session:
            session.get_one(Job, job.id).lease_until = now() - timedelta(seconds=1)
    assert world.worker.step() is True
    found = find(world, job)
    assert (found.state, found.deaths) == ("failed", 2)
    assert found.error == "This job hung on attempt 3. Its process stood still."
    assert hung(world) == 1


def test_a_job_that_hung_and_then_is_done_has_no_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (job,) = enqueue(world)
    fail(world, monkeypatch, Hung("Its process stood still."))
    world.worker.step()
    with world.database.write() as session:
        session.get_one(Job, job.id).lease_until = now() - timedelta(seconds=1)
        held = jobs.claim(session, "w", timedelta(seconds=30))
        assert held is not None
        assert held.error == "It hung: Its process stood still."
        jobs.end(session, held, "done")
    assert (find(world, job).state, find(world, job).error) == ("done", None)
    assert hung(world) == 0


@pytest.mark.parametrize("error", [DISK, StorageFailed("It failed."), OSError(errno.EROFS, "Read-only file system")])
def test_a_check_waits_for_a_disk_that_fails_however_long_that_takes(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (job,) = enqueue(world, kind="check")
    rests = list[float]()
    monkeypatch.setattr(world.worker.stopping, "wait", rests.append)
    fail(world, monkeypatch, error, "check_patch")
    for attempt in range(1, 2 * world.settings.job_attempts):
        assert world.worker.step() is False
        found = find(world, job)
        assert (found.state, found.deaths, found.attempt, found.error) == ("queued", 0, attempt, None)
    assert rests == [DISK_REST] * attempt


def test_what_is_no_fault_of_the_disk_counts_and_waits_longer_each_time_up_to_a_minute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = enqueue(world, kind="check")
    fail(world, monkeypatch, RuntimeError("a mistake of ours"), "check_patch")
    for deaths, pause in enumerate((1, 2, 4, 8, 16, 32, 60, 60)):
        before = now()
        assert world.worker.step() is True
        found = find(world, job)
        assert (found.state, found.deaths, found.error) == ("running", deaths, None)
        assert before + timedelta(seconds=pause) <= found.lease_until <= now() + timedelta(seconds=pause)
        assert world.worker.step() is False, "it waits before it tries again"
        with world.database.write() as session:
            session.get_one(Job, job.id).lease_until = now() - timedelta(seconds=1)


def test_a_hub_that_does_not_answer_is_said_within_a_minute_by_its_own_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = enqueue(world, kind="import")
    fail(world, monkeypatch, Unavailable("The Hub at https://hub does not answer: refused."), "import_base")
    monkeypatch.setattr("registry.worker.worker.models.refuse_import", lambda *_, **__: None)
    waited, attempt, found = 0.0, 0, job
    while found.state != "failed":
        attempt += 1
        assert world.worker.step() is True
        found = find(world, job)
        assert found.error == "The Hub at https://hub does not answer: refused."  # also while it is tried again
        waited += (found.lease_until - now()).total_seconds() if found.lease_until else 0
        with world.database.write() as session:
            if found.lease_until:
                session.get_one(Job, job.id).lease_until = now() - timedelta(seconds=1)
    assert attempt == 4
    assert waited + attempt * 10 < 60  # a connection is waited for 10 seconds


def test_a_check_that_fails_often_is_not_said_to_have_killed_workers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = enqueue(world, kind="check")
    ended = list[str]()
    monkeypatch.setattr(world.worker, "give_up", lambda _, state, error: ended.append(f"{state}: {error}"))
    fail(world, monkeypatch, Unavailable("The Hub does not answer."), "check_patch")
    while not ended:
        assert world.worker.step() is True
        with world.database.write() as session:
            session.get_one(Job, job.id).lease_until = now() - timedelta(seconds=1)
    assert ended == [
        "failed: 10 attempts of this job failed, so it is not tried again. The last: The Hub does not answer."
    ]


def test_a_database_that_is_away_postpones_even_what_could_be_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = enqueue(world)
    fail(world, monkeypatch, OperationalError("INSERT", {}, Exception("server closed the connection")))
    assert world.worker.step() is True
    assert (find(world, job).state, find(world, job).error) == ("running", None)


@pytest.mark.parametrize("error", [None, DISK, NotFinite("No number."), JobCancelled("Cancelled."), Stopped()])
def test_a_job_that_another_worker_has_taken_is_left_to_it(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Whatever came of the work meanwhile."""
    (job,) = enqueue(world)

    def late(claim: jobs.Claim) -> None:
        with world.database.write() as session:
            session.get_one(Job, claim.job_id).lease_until = now() - timedelta(seconds=1)
        with world.database.write() as session:
            assert jobs.claim(session, "heir", timedelta(hours=1)) is not None
        if error is not None:
            raise error
        with world.database.write() as session:
            jobs.end(session, claim, "done")

    monkeypatch.setattr(world.worker, "compose", late)
    if isinstance(error, Stopped):
        with pytest.raises(Stopped):
            world.worker.step()
    else:
        assert world.worker.step() is True
    found = find(world, job)
    assert (found.state, found.worker, found.attempt, found.error) == ("running", "heir", 2, None)


def running(world: World, monkeypatch: pytest.MonkeyPatch, step: Callable[[], bool]) -> threading.Thread:
    """Start the worker's loop around a step, without what it does at start."""
    monkeypatch.setattr(world.worker, "recover", lambda: None)
    monkeypatch.setattr(world.worker, "step", step)
    thread = threading.Thread(target=world.worker.run)
    thread.start()
    return thread


def test_the_loop_survives_errors_and_looks_again_at_once_after_work(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[int] = []
    answers: list[Any] = [True, True, OperationalError("SELECT", {}, Exception("away")), True, False]

    def step() -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    def wait(_: Watch, seconds: float) -> None:
        assert seconds == world.settings.poll_seconds
        pauses.append(len(answers))
        if not answers:
            world.worker.stop()

    monkeypatch.setattr(Watch, "wait", wait)
    thread = running(world, monkeypatch, step)
    thread.join(30)
    assert not thread.is_alive()
    assert pauses == [2, 0]  # after the error, and when there was nothing to do


@contextmanager
def idle(world: World, monkeypatch: pytest.MonkeyPatch, database: Database) -> Iterator[Worker]:
    """Run a worker that looks for jobs by itself once an hour, from when it has found none."""
    worker, waits = Worker(world.settings.model_copy(update={"poll_seconds": 3600}), database, world.store), Watch.wait
    resting = threading.Event()

    def wait(watch: Watch, seconds: float) -> None:
        resting.set()
        waits(watch, seconds)

    monkeypatch.setattr(Watch, "wait", wait)
    monkeypatch.setattr(worker, "recover", lambda: None)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        assert resting.wait(30)
        yield worker
    finally:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("place", ["this process", "another"])
def test_an_idle_worker_begins_a_job_when_it_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Another process has connections of its own; what it has in memory is not shared, and neither is it here."""
    database = world.database if place == "this process" else open_database(world.settings.database)
    try:
        with idle(world, monkeypatch, database) as worker:
            began = threading.Event()
            monkeypatch.setattr(worker, "compose", lambda _: began.set())
            enqueue(world)
            assert began.wait(30)
    finally:
        database.engine.dispose()


def test_a_worker_without_a_job_keeps_no_writer_waiting(world: World) -> None:
    world.worker.step()  # it was seen
    with world.database.write():
        assert world.worker.step() is False


def test_a_stopped_job_ends_the_loop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> bool:
        raise Stopped

    thread = running(world, monkeypatch, step)
    thread.join(30)
    assert not thread.is_alive()


def test_sweeps_come_at_start_and_every_ten_minutes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, done = [1000.0], list[tuple[str, float]]()
    monkeypatch.setattr("registry.worker.worker.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(world.worker, "recover", lambda: done.append(("recover", clock[0])))
    monkeypatch.setattr(world.worker, "sweep", lambda: done.append(("sweep", clock[0])))

    def step() -> bool:
        clock[0] += 250
        if clock[0] > 2500:
            world.worker.stopping.set()
        return True

    monkeypatch.setattr(world.worker, "step", step)
    world.worker.run()
    assert done == [("recover", 1000.0), ("sweep", 1750.0), ("sweep", 2500.0)]

"""Calls that wait for a job: when they are answered, and what they wait for."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from registry.db.tables import Job
from registry.server import watching
from registry.server.processes.locks import Lock
from registry.server.processes.places import Places
from registry.server.watching import Streams
from registry.services.queue import jobs
from tests.support.processes import until
from tests.support.world import World, enqueue


@pytest.fixture
def job(world: World, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A job of a public model, at which waiting calls look once an hour if nobody notifies them."""
    monkeypatch.setattr(watching, "LOOK", 3600.0)
    return enqueue(world)[0]


def claim(world: World) -> jobs.Claim:
    with world.database.write() as session:
        claimed = jobs.claim(session, "worker", world.worker.lease)
    assert claimed is not None
    return claimed


@contextmanager
def waiting(world: World, job: Job, wait: float = 30) -> Iterator[Callable[[], dict[str, Any]]]:
    """Ask for a job by a call that waits; yield a function that returns its answer, once the call is waiting."""
    client, answers = world.client("alice"), list[Any]()
    thread = threading.Thread(
        target=lambda: answers.append(client.get(f"/api/v1/jobs/{job.id}", params={"wait": wait}))
    )

    def answer() -> dict[str, Any]:
        thread.join(60)
        assert answers[0].status_code == 200, answers[0].text
        found: dict[str, Any] = answers[0].json()
        return found

    thread.start()
    try:
        until(lambda: answers or world.app.state.streams.places.count())
        yield answer
    finally:
        thread.join(60)


def test_a_call_that_waits_is_answered_when_the_job_changes_and_when_it_ends(world: World, job: Job) -> None:
    with waiting(world, job) as answer:
        held = claim(world)
        assert answer()["state"] == "running"
    with waiting(world, job) as answer:
        with world.database.write() as session:
            jobs.heartbeat(session, held, 0.5, world.worker.lease)
        assert answer()["progress"] == 0.5
    with waiting(world, job) as answer:
        with world.database.write() as session:
            jobs.end(session, held, "done")
        assert answer()["state"] == "done"
    with waiting(world, job) as answer:  # there is nothing to wait for
        assert answer()["state"] == "done"
    assert world.app.state.streams.places.count() == 0
    assert world.database.notifications.listeners == []


def test_a_call_that_waits_is_answered_after_its_seconds_with_nothing_new(world: World, job: Job) -> None:
    with waiting(world, job, 0.05) as answer:
        assert answer()["state"] == "queued"


def test_nobody_waits_for_more_than_half_a_minute(world: World, job: Job) -> None:
    for seconds in (31, -1):
        assert world.client("alice").get(f"/api/v1/jobs/{job.id}?wait={seconds}").status_code == 422


def test_where_too_many_wait_the_next_is_answered_at_once(world: World, job: Job) -> None:
    world.app.state.streams = Streams(Places(0, Lock()))
    with waiting(world, job) as answer:
        assert answer()["state"] == "queued"


def test_a_server_that_ends_answers_those_who_wait(world: World, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK", 0.05)
    with waiting(world, job) as answer:
        world.app.state.streams.end()
        assert answer()["state"] == "queued"


def test_changes_are_answered_as_soon_as_there_are_any_that_the_caller_may_see(world: World) -> None:
    enqueue(world)  # of a model of alice's
    alice, bob = world.client("alice"), world.client("bob")
    page = alice.get("/api/v1/changes", params={"since": 2**62})
    since = page.json()["next"]
    assert bob.get("/api/v1/changes", params={"since": since, "wait": 0.05}).json() == {"items": [], "next": since}
    answers: list[Any] = []
    ask = {"since": since, "wait": 30}
    thread = threading.Thread(target=lambda: answers.append(bob.get("/api/v1/changes", params=ask).json()))
    thread.start()
    until(world.app.state.streams.places.count)
    assert alice.patch("/api/v1/models/alice/m", json={"license": "mit"}).status_code == 200
    thread.join(60)
    assert [item["action"] for item in answers[0]["items"]] == ["model.update"] and answers[0]["next"] > since
    assert world.app.state.streams.places.count() == 0
    assert alice.get("/api/v1/changes", params={"wait": 31}).status_code == 422

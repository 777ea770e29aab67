import threading
from datetime import timedelta

import pytest

from registry.db.tables import Job, User, now
from registry.errors import Forbidden
from registry.services.people import actors
from registry.services.queue import jobs
from tests.support.world import World, enqueue

LEASE = timedelta(seconds=30)


def claim(world: World, worker: str = "w", lease: timedelta = LEASE) -> jobs.Claim | None:
    with world.database.write() as session:
        return jobs.claim(session, worker, lease)


def state(world: World, job_id: object) -> str:
    with world.database.read() as session:
        return session.get_one(Job, job_id).state


def test_the_same_key_is_one_active_job(world: World) -> None:
    (first,), (second,) = enqueue(world), enqueue(world)
    assert first.id == second.id
    held = claim(world)
    assert held is not None
    with world.database.write() as session:
        jobs.end(session, held, "done")
    assert enqueue(world)[0].id != first.id


def test_many_workers_never_take_one_job_twice(world: World) -> None:
    wanted = {job.id for job in enqueue(world, 40)}
    taken: list[jobs.Claim] = []
    lock = threading.Lock()

    def take(name: str) -> None:
        while (held := claim(world, name)) is not None:
            with lock:
                taken.append(held)

    threads = [threading.Thread(target=take, args=(f"w{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 40
    assert {held.job_id for held in taken} == wanted


def test_a_job_whose_lease_ran_out_is_taken_up_and_the_old_worker_is_fenced_off(world: World) -> None:
    enqueue(world)
    dead = claim(world, "dead", timedelta(seconds=-1))
    heir = claim(world, "heir")
    assert dead is not None
    assert heir is not None
    assert (heir.job_id, heir.attempt) == (dead.job_id, 2)
    for late in (
        lambda session: jobs.end(session, dead, "done"),
        lambda session: jobs.heartbeat(session, dead, 0.5, LEASE),
        lambda session: jobs.release(session, dead),
    ):
        with pytest.raises(jobs.LeaseLost), world.database.write() as session:
            late(session)
    assert claim(world, "third") is None
    with world.database.write() as session:
        jobs.end(session, heir, "done")
    assert state(world, heir.job_id) == "done"


def test_a_heartbeat_extends_the_lease(world: World) -> None:
    enqueue(world)
    held = claim(world, "w", timedelta(seconds=-1))
    assert held is not None
    with world.database.write() as session:
        assert jobs.heartbeat(session, held, 0.25, LEASE) is False
    assert claim(world, "other") is None
    with world.database.read() as session:
        job = session.get_one(Job, held.job_id)
        assert job.progress == 0.25
        assert job.lease_until is not None
        assert job.lease_until > now()


def test_a_released_job_is_free_again(world: World) -> None:
    enqueue(world)
    held = claim(world)
    assert held is not None
    with world.database.write() as session:
        jobs.release(session, held)
    assert claim(world) is not None


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_at_its_heartbeat(world: World) -> None:
    first, second = enqueue(world, 2)
    held = claim(world)
    assert held is not None
    running, queued = (first, second) if held.job_id == first.id else (second, first)
    client = world.client("alice")
    assert client.post(f"/api/v1/jobs/{queued.id}/cancel").json()["state"] == "cancelled"
    assert client.post(f"/api/v1/jobs/{running.id}/cancel").json()["state"] == "running"
    with world.database.write() as session:
        assert jobs.heartbeat(session, held, 0.1, LEASE) is True


def test_only_the_user_who_asked_or_an_admin_cancels(world: World) -> None:
    (job,) = enqueue(world)
    assert world.client("bob").post(f"/api/v1/jobs/{job.id}/cancel").status_code == 403
    assert world.client(None).post(f"/api/v1/jobs/{job.id}/cancel").status_code == 401
    assert world.client("admin", admin=True).post(f"/api/v1/jobs/{job.id}/cancel").status_code == 200
    (again,) = enqueue(world)
    assert world.client("alice").post(f"/api/v1/jobs/{again.id}/cancel").status_code == 200


def test_checks_and_imports_cannot_be_cancelled(world: World) -> None:
    (job,) = enqueue(world, kind="check")
    answer = world.client("alice").post(f"/api/v1/jobs/{job.id}/cancel")
    assert answer.status_code == 403
    with world.database.write() as session, pytest.raises(Forbidden):
        actor = actors.authenticate(session, world.token("alice"))
        jobs.cancel(session, actor, job.id)
    with world.database.read() as session:
        assert session.get_one(User, actor.user_id).name == "alice"


def test_a_job_that_outlives_its_workers_fails_with_a_sentence(world: World) -> None:
    (job,) = enqueue(world)
    for _ in range(world.settings.job_attempts):
        assert claim(world, "dead", timedelta(seconds=-1)) is not None
    assert world.worker.step()
    found = world.client().get(f"/api/v1/jobs/{job.id}").json()
    assert found["state"] == "failed"
    assert "workers died" in found["error"]

import re
import threading
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import insert, select, text

from registry.db.tables import JOB_KINDS, Job, User, now
from registry.errors import Forbidden
from registry.services.people import actors
from registry.services.queue import jobs
from tests.support.plans import explain, statements_asked
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


def test_a_job_of_a_kind_of_a_later_version_is_left_to_its_workers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = enqueue(world)
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "JOB_KINDS", tuple(kind for kind in JOB_KINDS if kind != "compose"))
        with world.database.read() as session:
            assert not jobs.any_claimable(session, "w", LEASE)
        assert claim(world) is None
    held = claim(world)
    assert held is not None and held.job_id == job.id


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


def test_a_lease_given_before_the_clock_went_back_does_not_hold_a_job_for_as_long(world: World) -> None:
    enqueue(world)
    alive = claim(world, "alive")
    assert alive is not None
    with world.database.write() as session:
        session.get_one(Job, alive.job_id).lease_until = now() + LEASE + timedelta(days=1)
    heir = claim(world, "heir")
    assert heir is not None, "nobody takes it up for a day"
    assert (heir.job_id, heir.attempt, heir.deaths) == (alive.job_id, 2, 1)
    with pytest.raises(jobs.LeaseLost), world.database.write() as session:
        jobs.end(session, alive, "done")
    assert claim(world, "third") is None


def test_a_living_worker_keeps_its_job_when_the_clock_goes_back_and_a_job_put_off_waits_no_longer_than_is_trusted(
    world: World,
) -> None:
    enqueue(world)
    held = claim(world)
    assert held is not None
    with world.database.write() as session:
        session.get_one(Job, held.job_id).lease_until = now() + timedelta(days=1)
    with world.database.write() as session:
        jobs.heartbeat(session, held, 0.5, LEASE)
    assert claim(world, "other") is None
    with world.database.write() as session:
        jobs.postpone(session, held, timedelta(days=1))
    assert claim(world, "other", timedelta(0)) is None
    with world.database.read() as session:
        until = session.get_one(Job, held.job_id).lease_until
    assert until is not None and until <= now() + jobs.LONGEST_DELAY


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


def served(world: World, count: int) -> list[str]:
    """Return whose jobs are claimed next, and end each."""
    order = []
    for _ in range(count):
        held = claim(world)
        assert held is not None
        with world.database.write() as session:
            job = jobs.end(session, held, "done")
            order.append(session.get_one(User, job.user_id).name)
    return order


def ahead(world: World, job: Job) -> int | None:
    with world.database.read() as session:
        return jobs.jobs_ahead(session, session.get_one(Job, job.id))


def test_users_take_turns_however_many_jobs_each_has(world: World) -> None:
    enqueue(world, 6, user="carol")
    assert served(world, 2) == ["carol", "carol"]
    mine = enqueue(world, 2, user="alice")
    (bobs,) = enqueue(world, 1, user="bob")
    assert [ahead(world, job) for job in (*mine, bobs)] == [1, 4, 2], "at most one of each other user a turn"
    assert served(world, 7) == ["carol", "alice", "bob", "carol", "alice", "carol", "carol"]


def test_a_user_gains_no_turns_by_having_been_away_and_loses_none_by_having_been_served(world: World) -> None:
    enqueue(world, 20, user="carol")
    assert set(served(world, 15)) == {"carol"}
    enqueue(world, 3, user="bob")
    assert served(world, 6) == ["carol", "bob", "carol", "bob", "carol", "bob"]
    assert served(world, 2) == ["carol", "carol"]
    (job,) = enqueue(world, 1, user="carol")
    enqueue(world, 1, user="bob")
    assert ahead(world, job) == 0


def test_a_job_that_has_run_for_long_gives_newcomers_no_earlier_turns(world: World) -> None:
    enqueue(world, 20, user="carol")
    assert claim(world) is not None
    assert set(served(world, 10)) == {"carol"}
    enqueue(world, 9, user="bob")
    assert served(world, 4) == ["carol", "bob", "carol", "bob"]


def test_checks_and_imports_come_first(world: World) -> None:
    enqueue(world, 3, user="carol")
    (check,) = enqueue(world, 1, "check", user="bob")
    assert ahead(world, check) == 0
    assert served(world, 2) == ["bob", "carol"]


def test_a_job_whose_worker_died_is_behind_a_check_and_keeps_its_turn(world: World) -> None:
    enqueue(world, 2, user="carol")
    dead = claim(world, "dead", timedelta(seconds=-1))
    (check,) = enqueue(world, 1, "check", user="bob")
    first, second = claim(world), claim(world)
    assert first is not None
    assert second is not None
    assert dead is not None
    assert (first.job_id, second.job_id) == (check.id, dead.job_id)


@pytest.mark.heavy
def test_claiming_reads_one_row_of_an_index_however_long_the_queue_is(world: World) -> None:
    """10,000 jobs of 50 users: neither database scans or sorts them."""
    enqueue(world)
    with world.database.write() as session:
        first = session.scalars(select(Job)).one()
        columns = {column.key: getattr(first, column.key) for column in Job.__table__.columns}
        rows = [{**columns, "id": uuid.uuid4(), "key": f"k{n}", "turn": n // 50, "rank": n % 2} for n in range(10_000)]
        session.execute(insert(Job), rows)
    with world.database.write() as session:
        session.execute(text("ANALYZE"))
    world.database.engine.dispose()  # SQLite reads statistics when it connects
    with statements_asked(world.database.engine) as asked:
        assert claim(world) is not None
    plans = explain(world.database.engine, asked, "ORDER BY jobs.rank")
    assert len(plans) == 2
    for plan, _ in plans:
        assert re.search("ix_jobs_(state_rank_turn_created_at|queued)", plan), (
            plan
        )  # both are in the order of the queue
        assert "Seq Scan" not in plan
        assert "SCAN jobs" not in plan
        assert "Sort" not in plan
        assert "TEMP B-TREE" not in plan

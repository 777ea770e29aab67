"""What workers can do: which jobs they leave, which they prefer, and that nobody waits for ever for a worker."""

import re
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update

from registry.db.tables import Job, Model, Worker, now
from registry.errors import InvalidRequest
from registry.services.queue import abilities, jobs
from registry.services.queue.abilities import Ability, parse_kinds
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.plans import explain, statements_asked
from tests.support.world import World, create_model, enqueue, push_patch

LEASE = timedelta(seconds=30)
BASE = "sha256:" + "b" * 64
HAS_BASE = Ability(bases=frozenset({BASE}))


def claim(world: World, ability: Ability, worker: str = "w") -> uuid.UUID | None:
    with world.database.write() as session:
        if (held := jobs.claim(session, worker, LEASE, ability)) is None:
            assert not jobs.any_claimable(session, worker, LEASE, ability)
            return None
        jobs.end(session, held, "done")
        return held.job_id


def change(world: World, job: Job, **values: Any) -> uuid.UUID:
    with world.database.write() as session:
        session.execute(update(Job).where(Job.id == job.id).values(**values))
    return job.id


def test_a_worker_takes_only_the_kinds_of_jobs_that_it_is_told(world: World) -> None:
    (check,), (compose,), (other,) = (enqueue(world, 1, kind, user) for kind, user in KINDS)
    assert claim(world, Ability(("rebuild",))) is None
    assert claim(world, Ability(("compose", "rebuild"))) == compose.id
    assert claim(world, Ability(("compose", "check"))) == check.id, "by rank, among its kinds"
    assert claim(world, Ability()) == other.id


KINDS = (("check", "alice"), ("compose", "bob"), ("conflicts", "carol"))


def test_kinds_are_named_by_commas_and_others_are_refused() -> None:
    assert parse_kinds("") is None
    assert parse_kinds("check, compose,check") == ("check", "compose")
    with pytest.raises(InvalidRequest, match=r"'train' is not a kind of job; name some of import, check"):
        parse_kinds("check,train")


def test_a_worker_leaves_jobs_that_are_too_large_for_it(world: World) -> None:
    large, small, unknown = enqueue(world, 3)
    change(world, large, bytes=101)
    change(world, small, bytes=100)
    assert claim(world, Ability(most_bytes=100)) == small.id
    assert claim(world, Ability(most_bytes=0)) == unknown.id, "nobody knows how large it is"
    assert claim(world, Ability(most_bytes=100)) is None
    assert claim(world, Ability(("compose",), 101)) == large.id


def test_a_job_whose_base_is_at_hand_is_preferred_and_others_wait_for_three_at_most(world: World) -> None:
    queue = enqueue(world, 9)
    with_base = [change(world, job, base_digest=BASE) for job in queue[1:]]
    taken = [claim(world, HAS_BASE) for _ in range(5)]
    assert taken == [*with_base[:3], queue[0].id, with_base[3]]
    (urgent,) = enqueue(world, 1, "check", "bob")
    assert claim(world, HAS_BASE) == urgent.id, "only jobs of one rank are compared"


def test_a_job_is_not_preferred_to_one_of_a_much_earlier_turn_or_by_another_worker(world: World) -> None:
    queue = enqueue(world, jobs.NEAR_TURNS + 2)
    change(world, queue[-1], base_digest=BASE)
    assert claim(world, HAS_BASE) == queue[0].id
    change(world, queue[-1], not_worker="w")
    assert claim(world, HAS_BASE) == queue[1].id
    assert claim(world, HAS_BASE, "another") == queue[-1].id
    change(world, queue[3], base_digest=BASE, bytes=10)
    assert claim(world, Ability(most_bytes=9, bases=HAS_BASE.bases)) == queue[2].id


@pytest.mark.heavy
def test_a_job_says_what_it_needs_and_a_worker_which_bases_it_has(world: World, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch")
    push_patch(world, "alice/tiny", tmp_path / "patch")
    body = {"alpha": "1", "patches": [{"number": 1}]}
    assert world.client("bob").post("/api/v1/models/alice/tiny/compositions", json=body).status_code == 202
    with world.database.read() as session:
        model = session.scalars(select(Model)).one()
        found = {job.kind: (job.base_digest, job.bytes) for job in session.scalars(select(Job))}
    patch = (tmp_path / "patch").stat().st_size
    assert found == {
        "import": (None, model.size),
        "check": (model.base_digest, model.size + patch),
        "compose": (model.base_digest, 2 * model.size + patch),
    }
    assert world.worker.can_now().bases == {model.base_digest}
    for file in world.worker.bases[str(model.base_digest)]:
        world.store.path(file).unlink()
    assert world.worker.can_now().bases == frozenset()


def job_of(world: World, held: jobs.Claim | None) -> Job:
    assert held is not None
    with world.database.read() as session:
        return session.get_one(Job, held.job_id)


def unclaimable(world: World) -> dict[str, int]:
    """Return how many jobs no worker can do, as an admin sees it everywhere."""
    client = world.client("root", admin=True)
    counts: dict[str, int] = client.get("/api/v1/admin/summary").json()["unclaimable_jobs"]
    metrics = re.findall(r'^registry_unclaimable_jobs\{kind="(\w+)"\} (\d+)\.0$', client.get("/metrics").text, re.M)
    assert {kind: int(count) for kind, count in metrics} == counts
    return counts


def test_jobs_that_no_living_worker_can_do_are_told(world: World) -> None:
    large, *_ = enqueue(world, 3)
    (check,) = enqueue(world, 1, "check", "bob")
    change(world, large, bytes=2**40)
    assert unclaimable(world) == {"compose": 3, "check": 1}, "there is no worker at all"
    with world.database.write() as session:
        session.add(Worker(name="small", device="cpu", kinds=["compose"], most_bytes=2**30))
    assert unclaimable(world) == {"compose": 1, "check": 1}
    client = world.client("root", admin=True)
    (shown,) = client.get("/api/v1/admin/workers").json()
    assert (shown["kinds"], shown["most_bytes"]) == (["compose"], 2**30)
    change(world, check, not_worker="large")
    with world.database.write() as session:
        session.add(Worker(name="large", device="cuda"))
    assert unclaimable(world) == {"check": 1}, "it is the one worker that may not do it"
    with world.database.write() as session:
        session.execute(update(Worker).values(seen_at=now() - timedelta(seconds=61)))
    assert unclaimable(world) == {"compose": 3, "check": 1}
    with world.database.write() as session:
        small = session.get_one(Worker, "small")
        small.seen_at = now()
        held = jobs.claim(session, "small", LEASE, Ability(("compose",), 2**30))
    assert unclaimable(world) == {"compose": 1, "check": 1}, "the large one"
    change(world, job_of(world, held), bytes=2**40)
    assert unclaimable(world) == {"compose": 1, "check": 1}, "somebody does it, whatever its size"
    change(world, job_of(world, held), lease_until=now() - timedelta(seconds=1))
    assert unclaimable(world) == {"compose": 2, "check": 1}, "nobody can take it over"
    with world.database.write() as session:
        small = session.get_one(Worker, "small")
        small.seen_at = now() - timedelta(seconds=61)
    world.worker.ability = Ability(("check",), 5)
    with world.database.write() as session:
        world.worker.be_seen(session)
    assert unclaimable(world) == {"compose": 3}


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("ability", "index"),
    [
        (Ability(("check", "conflicts")), "ix_jobs_kind_state_rank_turn_created_at"),
        (HAS_BASE, "ix_jobs_state_rank_turn_created_at"),
        (Ability(most_bytes=10), "ix_jobs_queued"),
        (Ability(("compose", "rebuild"), 10), "ix_jobs_queued"),
    ],
)
def test_claiming_reads_little_however_long_the_queue_is(world: World, ability: Ability, index: str) -> None:
    """10,000 compositions: a worker for other kinds does not go past them, and another looks for its base among few.

    One that takes small jobs alone reads past large ones in an index. Those that nobody can do are counted in it.
    """
    enqueue(world)
    (last,) = enqueue(world, 1, "conflicts", "bob")
    with world.database.write() as session:
        first = session.scalars(select(Job).where(Job.kind == "compose")).one()
        columns = {column.key: getattr(first, column.key) for column in Job.__table__.columns}
        rows = [{**columns, "id": uuid.uuid4(), "key": f"k{n}", "turn": n // 50, "rank": 1} for n in range(10_000)]
        rows[60]["base_digest"] = BASE
        rows[-1]["bytes"] = 10
        session.execute(insert(Job), rows)
        session.execute(update(Job).where(Job.bytes.is_(None)).values(bytes=11))
    with world.database.write() as session:
        session.execute(text("ANALYZE"))
    world.database.engine.dispose()  # connections that are open do not see the statistics
    wanted = rows[60]["id"] if ability.bases else last.id if "conflicts" in (ability.kinds or ()) else rows[-1]["id"]
    with statements_asked(world.database.engine) as asked:
        assert claim(world, ability) == wanted
        with world.database.read() as session:
            assert abilities.count_unclaimable(session)
    plans = explain(world.database.engine, asked, "ORDER BY jobs.rank")
    small = ability.most_bytes is not None
    assert len(plans) == (2 + small) * len(ability.kinds or "1") + bool(ability.bases)
    if world.database.engine.dialect.name == "sqlite":  # PostgreSQL chooses itself among indexes that are as good
        assert sum(index in plan for plan, _ in plans) >= 2 * len(ability.kinds or "1")
    for plan, _ in plans:
        few = "turn <=" in plan  # PostgreSQL reads the near turns, and sorts what has the base
        slow = "Seq Scan|SCAN jobs|TEMP B-TREE" + ("" if few else "|Sort")
        assert "ix_jobs_" in plan
        assert not re.search(slow, plan), plan
    queued, given_up = explain(world.database.engine, asked, "GROUP BY jobs.kind")
    if world.database.engine.dialect.name == "sqlite":  # PostgreSQL reads the table, as all of it is counted here
        assert "COVERING INDEX ix_jobs_queued" in queued[0], queued
        assert "SCAN jobs" not in given_up[0], given_up

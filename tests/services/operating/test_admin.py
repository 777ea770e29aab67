"""Administration: workers, jobs, quarantined patches, quotas, and server statistics."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from registry.db.tables import AuditEvent, Blob, Job, Model, Namespace, Patch, PatchRevision, User, Worker, now
from registry.services.blobs import quotas
from registry.services.queue import jobs, workers
from registry.worker.runner import SEEN_EVERY, Stopped
from tests.support.world import World, announce, create_model, enqueue, statements, upload

pytestmark = pytest.mark.heavy

SANDBOXED = "tests.support.sandboxed"

ADMIN = "/api/v1/admin"


def ask(world: World, path: str, status: int = 200, **query: Any) -> Any:
    answer = world.client("chief", admin=True).get(f"{ADMIN}/{path}", params=query)
    assert answer.status_code == status, answer.text
    return answer.json()


def follow(world: World, path: str, cursor: str = "before", **query: Any) -> list[dict[str, Any]]:
    """Follow all pages of two."""
    found, more = [], {}
    while True:
        page = ask(world, path, limit=2, **query, **more)
        assert len(page["items"]) <= 2
        found += page["items"]
        if page["next"] is None:
            return found
        more = {cursor: page["next"]}


def silence(world: World, **ago: float) -> None:
    """Set back the time when the worker was last seen."""
    with world.database.write() as session:
        session.execute(update(Worker).values(seen_at=now() - timedelta(**ago)))


# ---------------------------------------------------------------------------------------------------------- workers


def test_a_worker_is_alive_with_the_job_in_its_hands_until_it_is_silent(world: World) -> None:
    assert ask(world, "workers") == []
    world.work()
    (shown,) = ask(world, "workers")
    assert (shown["name"], shown["device"], shown["alive"], shown["job"]) == (world.worker.name, "auto", True, None)
    enqueue(world)
    with world.database.write() as session:
        claim = jobs.claim(session, world.worker.name, timedelta(seconds=30))
        assert claim is not None
        jobs.heartbeat(session, claim, 0.25, timedelta(seconds=30))
    (shown,) = ask(world, "workers")
    job = shown["job"]
    assert (job["kind"], job["model"], job["subject"], job["progress"]) == ("compose", "alice/m", "#0", 0.25)
    silence(world, seconds=59)
    assert ask(world, "workers")[0]["alive"]
    silence(world, seconds=61)
    (dead,) = ask(world, "workers")
    assert (dead["alive"], dead["job"]["id"], dead["started_at"]) == (False, job["id"], shown["started_at"])
    with world.database.write() as session:
        jobs.end(session, claim, "done")
    assert ask(world, "workers")[0]["job"] is None


def test_a_worker_is_marked_as_seen_every_few_seconds_only(world: World) -> None:
    world.work()
    first = ask(world, "workers")[0]["seen_at"]
    world.work()
    assert ask(world, "workers")[0]["seen_at"] == first
    world.worker.seen -= SEEN_EVERY
    world.work()
    assert ask(world, "workers")[0]["seen_at"] > first


def test_a_worker_is_seen_while_it_is_at_work(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue(world)
    with world.database.write() as session:
        claim = jobs.claim(session, world.worker.name, timedelta(seconds=60))
    assert claim is not None
    hasty = world.worker.settings.model_copy(update={"lease_seconds": 0.1})
    monkeypatch.setattr(world.worker, "settings", hasty)
    told, seen = threading.Event(), workers.mark_seen

    def tell(*arguments: Any) -> None:
        seen(*arguments)
        told.set()

    def work() -> None:
        with pytest.raises(Stopped):
            world.worker.in_sandbox(claim, f"{SANDBOXED}:work", path=str(tmp_path / "pid"))

    monkeypatch.setattr(workers, "mark_seen", tell)
    thread = threading.Thread(target=work)
    thread.start()
    assert told.wait(30)
    world.worker.stopping.set()
    thread.join(30)
    (shown,) = ask(world, "workers")
    assert (shown["name"], shown["job"]["id"]) == (world.worker.name, str(claim.job_id))


def test_workers_of_the_day_before_are_forgotten_and_may_come_back(world: World) -> None:
    world.work()
    with world.database.write() as session:
        session.add(Worker(name="gone", device="cpu", seen_at=now() - timedelta(hours=25)))
        session.add(Worker(name="late", device="cuda", seen_at=now() - timedelta(hours=23)))
    world.worker.sweep()
    assert [row["name"] for row in ask(world, "workers")] == [world.worker.name, "late"]
    silence(world, days=2)
    world.worker.sweep()
    assert ask(world, "workers") == []
    world.worker.seen -= SEEN_EVERY
    world.work()
    assert ask(world, "workers")[0]["alive"]


# ------------------------------------------------------------------------------------------------- jobs, quarantine


def test_jobs_of_all_models_are_listed_newest_first_by_pages(world: World) -> None:
    made = [*enqueue(world, 3), enqueue(world, 4, "check")[3]]
    with world.database.write() as session:
        claim = jobs.claim(session, "worker one", timedelta(seconds=30))
        assert claim is not None
        jobs.end(session, claim, "failed", "It failed.")
        session.execute(update(Model).values(visibility="private"))
        moment = datetime(2026, 2, 3, 4, 5, 6, 789123, tzinfo=UTC)
        session.execute(update(Job).where(Job.key != "key 2").values(created_at=moment))
    found = follow(world, "jobs")
    assert {row["id"] for row in found} == {str(job.id) for job in made}
    assert [row["created_at"] for row in found] == sorted((row["created_at"] for row in found), reverse=True)
    assert len(found) == 4
    assert {row["user"] for row in found} == {"alice"}
    (failed,) = follow(world, "jobs", state="failed")
    assert (failed["worker"], failed["error"], failed["id"]) == ("worker one", "It failed.", str(claim.job_id))
    assert len(follow(world, "jobs", state="queued", kind="compose")) == 3, "the check came first"
    assert [row["id"] for row in follow(world, "jobs", kind="check")] == [str(made[3].id)]
    assert follow(world, "jobs", kind="import") == []
    for wrong in ({"state": "lost"}, {"kind": "x"}, {"before": "1"}, {"limit": 101}, {"limit": 0}):
        ask(world, "jobs", 422, **wrong)


def test_patches_in_quarantine_are_listed_over_all_models_the_last_first(world: World) -> None:
    alice = enqueue(world)[0].user_id
    with world.database.write() as session:
        space = session.scalars(select(Namespace).where(Namespace.name == "alice")).one()
        for name, visibility in (("n", "private"), ("o", "public")):
            session.add(Model(namespace_id=space.id, name=name, creator_id=alice, size=0, visibility=visibility))
        session.flush()
        for model in session.scalars(select(Model)):
            for number in (1, 2):
                patch = Patch(model_id=model.id, number=number, author_id=alice, revision=2)
                session.add(patch)
                session.flush()
                for revision in (1, 2):
                    words = {"title": f"Title {revision}", "message": "", "sha256": "0" * 64, "size": 1}
                    base = "sha256:" + "0" * 64
                    session.add(PatchRevision(patch_id=patch.id, number=revision, base_digest=base, **words))
    chief = world.client("chief", admin=True)
    for name in ("m", "n", "o"):
        url = f"/api/v1/models/alice/{name}/patches/2/quarantine"
        assert chief.put(url, json={"reason": f"odd {name}"}).status_code == 200
    found = follow(world, "quarantine")
    assert [(row["model"], row["number"], row["revision"], row["quarantined"]) for row in found] == [
        (f"alice/{name}", 2, 2, f"odd {name}") for name in ("o", "n", "m")
    ]
    assert {row["author"] for row in found} == {"alice"}
    assert chief.put("/api/v1/models/alice/n/patches/2/quarantine", json={"reason": None}).status_code == 200
    assert [row["model"] for row in follow(world, "quarantine")] == ["alice/o", "alice/m"]


# ----------------------------------------------------------------------------------------------- namespaces, quotas


def test_namespaces_show_what_each_alone_would_in_as_few_questions(world: World) -> None:
    for user in ("alice", "bob", "carol", "dave"):
        world.token(user)
    alice, bob = world.client("alice"), world.client("bob")
    assert alice.post("/api/v1/namespaces", json={"name": "crew"}).status_code == 201
    upload(alice, b"a" * 700)
    announce(alice, b"b" * 30)
    upload(bob, b"c" * 5)
    enqueue(world)
    with world.database.write() as session:
        model = session.scalars(select(Model)).one()
        for number, (author, data) in enumerate((("alice", 700), ("bob", 5)), 1):
            author_id = session.scalars(select(User.id).where(User.name == author)).one()
            patch = Patch(model_id=model.id, number=number, author_id=author_id)
            session.add(patch)
            session.flush()
            blob = session.scalars(select(Blob).where(Blob.size == data)).one().sha256
            words = {"title": "t", "message": "", "base_digest": "sha256:" + "0" * 64, "size": data}
            session.add(PatchRevision(patch_id=patch.id, number=1, sha256=blob, blob_sha256=blob, **words))
            session.flush()
            quotas.recount(session, quotas.payer(session, author_id))
    pages = follow(world, "namespaces", "after")
    found = {row["name"]: row for row in pages}
    assert [row["name"] for row in pages] == ["alice", "bob", "carol", "chief", "crew", "dave"]
    used = {name: (row["used_bytes"], row["reserved_bytes"], row["open_uploads"]) for name, row in found.items()}
    assert {name: numbers for name, numbers in used.items() if any(numbers)} == {
        "alice": (700, 30, 1),
        "bob": (5, 0, 0),
    }
    assert (found["crew"]["kind"], found["dave"]["kind"]) == ("organisation", "user")
    settings = world.settings
    assert (found["dave"]["quota_bytes"], found["dave"]["own_bytes"]) == (settings.quota_bytes, None)
    with world.database.read() as session:
        for space in session.scalars(select(Namespace)):
            alone = quotas.usage(session, space, settings.quota_bytes, settings.quota_uploads)
            assert vars(alone).items() <= found[space.name].items()
    assert [row["name"] for row in follow(world, "namespaces", "after", search="CR")] == ["crew"]
    assert follow(world, "namespaces", "after", search="%") == []
    with statements(world) as few:
        ask(world, "namespaces", limit=1)
    with statements(world) as many:
        ask(world, "namespaces")
    assert len(many) == len(few)


def test_a_quota_that_an_admin_gives_holds_and_is_in_the_log_as_theirs(world: World) -> None:
    alice, chief = world.client("alice"), world.client("chief", admin=True)
    where = f"{ADMIN}/namespaces/alice/quota"
    shown = chief.put(where, json={"bytes": 100, "uploads": 2}).json()
    assert (shown["quota_bytes"], shown["own_bytes"], shown["quota_uploads"]) == (100, 100, 2)
    assert alice.post("/api/v1/uploads", json={"sha256": "0" * 64, "size": 101}).status_code == 429
    assert chief.put(where, json={"bytes": 101}).json()["own_uploads"] == 2, "what is left out stays"
    announced = alice.post("/api/v1/uploads", json={"sha256": "0" * 64, "size": 101})
    assert announced.status_code == 201
    shown = chief.put(where, json={"bytes": None, "uploads": None}).json()
    assert (shown["quota_bytes"], shown["own_bytes"], shown["own_uploads"]) == (world.settings.quota_bytes, None, None)
    assert chief.put(where, json={}).json() == shown
    with world.database.read() as session:
        rows = session.scalars(select(AuditEvent).where(AuditEvent.action == "namespace.quota")).all()
    assert [(row.user_name, row.subject, row.after) for row in rows] == [
        ("chief", "alice", {"quota_bytes": 100, "quota_uploads": 2}),
        ("chief", "alice", {"quota_bytes": 101}),
        ("chief", "alice", {"quota_bytes": None, "quota_uploads": None}),
    ]
    for wrong in ({"bytes": -1}, {"bytes": 2**63}, {"uploads": 2**31}, {"size": 1}, {"bytes": "x"}):
        assert chief.put(where, json=wrong).status_code == 422, wrong
    assert chief.put(f"{ADMIN}/namespaces/nobody/quota", json={"bytes": 1}).status_code == 404
    assert alice.put(where, json={"bytes": 10**9}).status_code == 403


# ---------------------------------------------------------------------------------------------------------- summary


def test_the_summary_counts_what_is_here(world: World, tmp_path: Path) -> None:
    empty = ask(world, "summary")
    assert (empty["users"], empty["models"], empty["blobs"], empty["blob_bytes"]) == (1, 0, 0, 0)
    assert set(empty["jobs"]) == {"queued", "running", "done", "failed", "cancelled"}
    assert not any(empty["jobs"].values()) and not any(empty["patches"].values())
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.safetensors").write_bytes(b"no model at all")
    create_model(world, "alice/broken", tmp_path / "base")
    alice = enqueue(world, 2)[0].user_id
    with world.database.write() as session:
        model = session.scalars(select(Model)).one()
        for number, state in enumerate(("draft", "draft", "accepted"), 1):
            session.add(Patch(model_id=model.id, number=number, author_id=alice, state=state))
        session.add(Blob(sha256="f" * 64, size=10**12, state="remote"))
    for number in (1, 2):
        body = {"reason": "other", "message": f"Not {number}."}
        made = world.client("bob").post("/api/v1/models/alice/m/reports", json=body).json()
        if number == 1:
            answer = {"answer": "No."}
            assert world.client("chief").post(f"{ADMIN}/reports/{made['id']}/close", json=answer).status_code == 200
    found = ask(world, "summary")
    assert (found["users"], found["models"], found["open_reports"]) == (3, 1, 1)
    assert (found["blobs"], found["blob_bytes"]) == (1, len(b"no model at all"))
    assert {state: number for state, number in found["patches"].items() if number} == {"draft": 2, "accepted": 1}
    assert {state: number for state, number in found["jobs"].items() if number} == {"failed": 1, "queued": 2}

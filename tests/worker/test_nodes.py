"""Composing on the nodes of a cluster: what the worker decides, with nodes of this process in place of Ray's."""

import json
import os
import re
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import timedelta
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from registry.breadcrumbs.formats.checkpoint import open_checkpoint
from registry.breadcrumbs.formats.digest import digest_checkpoint
from registry.db.tables import Build, Composition, Job, JobPart, Model, Recipe, now
from registry.errors import InvalidRequest, WrongState
from registry.services.composing import builds
from registry.services.operating import identity
from registry.services.queue import jobs
from registry.worker.cluster import driver
from registry.worker.cluster.driver import slots_of
from registry.worker.cluster.link import Away, Place, RayLink, Refused, check_address
from registry.worker.cluster.node import OWN, Node
from registry.worker.worker import Worker
from tests.support.cluster import StandInCluster
from tests.support.makers import fine_tuned, local_digest, make_checkpoint, make_patch
from tests.support.s3_stand_in import S3
from tests.support.world import World, create_model, push_patch

URL = "/api/v1/models/alice/tiny"
FILES = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["bucket", "disk"])
def world_settings(request: pytest.FixtureRequest, s3: S3) -> dict[str, Any]:
    """Blobs are in a bucket, where every node has a folder of its own, or in a folder that all of them share."""
    return {"store": "bucket", **s3.settings("blobs")} if request.param == "bucket" else {}


@pytest.fixture
def sharded(world: World, tmp_path: Path) -> World:
    """A model of three weight files and a patch of it, on a worker with two nodes."""
    world.token("alice")
    identity.claim(world.database, world.store)
    base = make_checkpoint(tmp_path / "base", shards=3)
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    return world


@pytest.fixture
def cluster(sharded: World, tmp_path: Path) -> Iterator[StandInCluster]:
    def settings(name: str) -> Any:
        own = {"data": tmp_path / name} if sharded.store.kind == "bucket" else {}
        if own:
            own["data"].mkdir()
        return sharded.settings.model_copy(update=own)

    made = StandInCluster({name: settings(name) for name in ("a", "b")})
    sharded.worker.cluster = made
    yield made
    made.close()


def ask(world: World) -> dict[str, Any]:
    body = {"alpha": "0.3", "patches": [{"number": 1, "weight": "1"}]}
    answer: dict[str, Any] = world.client("bob").post(f"{URL}/compositions", json=body).json()
    return answer


def rows(world: World, kind: type[Any]) -> Any:
    with world.database.read() as session:
        return session.scalars(select(kind).order_by(kind.created_at)).all()


def end_lease(world: World) -> None:
    with world.database.write() as session:
        session.scalars(select(Job).where(Job.state == "running")).one().lease_until = now() - timedelta(seconds=1)


def test_files_are_composed_by_nodes_lost_ones_elsewhere_and_built_again_by_others(
    sharded: World, cluster: StandInCluster, tmp_path: Path
) -> None:
    recipe = ask(sharded)["recipe"]

    def lose(node: str, sent: dict[str, Any]) -> dict[str, Any] | None:
        return {"lost": "The node died."} if node == cluster.asked[0][0] else None

    cluster.fate = lose
    for machine in cluster.machines.values():
        machine.fenced = False
    with capture_logs() as logged:
        assert sharded.worker.step()
    bad = cluster.asked[0][0]
    (good,) = cluster.places.keys() - {bad}
    done = ask(sharded)
    assert done["weights_digest"] == local_digest(tmp_path, recipe)
    assert sorted(name for node, name in cluster.asked if node == good) == FILES, "also a node that was spared"
    assert [event["node"] for event in logged if event["event"] == "node.no_fence"] == [f"ray:{good}"]
    assert len(cluster.shared) == 1 and cluster.shared[0]["tensors"]
    lost = Counter(name for node, name in cluster.asked if node == bad)
    assert lost and set(lost.values()) == {1}, "what a node has lost goes to another"
    (build,) = rows(sharded, Build)
    assert (build.builder, build.nodes) == (sharded.worker.name, [f"ray:{good}"])
    assert rows(sharded, JobPart) == [] and rows(sharded, Composition)[0].held
    files = sharded.client(None).get(f"{URL}/revisions/{recipe['digest']}").json()["files"]
    (tmp_path / "pulled").mkdir()
    for file in files:
        if file["path"].endswith((".safetensors", ".json")):
            raw = b"".join(sharded.store.chunks(file["sha256"]))
            (tmp_path / "pulled" / file["path"]).write_bytes(raw)
    with open_checkpoint(tmp_path / "pulled") as pulled:
        assert digest_checkpoint(pulled) == done["weights_digest"]
    if sharded.store.kind == "bucket":
        weights = {file["sha256"] for file in files if file["path"] in FILES}
        here = {path.name for path in (sharded.settings.data / "cache").iterdir()}
        assert not weights & here, "no weights came to the worker"
        assert not list((tmp_path / good / "staging").glob("*"))

    cluster.asked.clear()
    cluster.fate = lambda _node, _ask: None
    other = Worker(sharded.settings, sharded.database, sharded.store)
    other.cluster = cluster
    with sharded.database.write() as session:
        model = session.scalars(select(Model).where(Model.name == "tiny")).one()
        session.refresh(model, ["namespace"])
        digest = recipe["digest"]
        ask_again = session, model.creator_id, "rebuild", "again", model, digest, {"recipe": digest}
        jobs.enqueue(*ask_again, not_worker=sharded.worker.name)
    cluster.places = {good: cluster.places[good]}
    assert other.step()
    waiting = rows(sharded, Job)[-1]
    assert "every node of the cluster has a share in the build" in waiting.error
    metrics = sharded.client("root", admin=True).get("/metrics").text
    assert re.search(r"^registry_waiting_rebuilds 1\.0$", metrics, re.M)
    assert (waiting.state, cluster.asked) == ("running", [])
    end_lease(sharded)
    cluster.places |= {bad: Place(f"ray:{bad}", 2)}
    assert other.step()
    assert {node for node, _ in cluster.asked} == {bad}
    assert [build.nodes for build in rows(sharded, Build)] == [[f"ray:{good}"], [f"ray:{bad}"]]
    assert {build.weights_digest for build in rows(sharded, Build)} == {done["weights_digest"]}


def test_a_cluster_that_is_away_puts_the_job_off_and_loses_no_part(
    sharded: World, cluster: StandInCluster, tmp_path: Path
) -> None:
    recipe = ask(sharded)["recipe"]
    cluster.fate = lambda _node, sent: Away if len(rows(sharded, JobPart)) == 2 else None
    cluster.places = {"a": cluster.places["a"]}
    assert sharded.worker.step()
    job = rows(sharded, Job)[-1]
    assert (job.state, job.error, job.deaths) == ("running", "The cluster is away.", -1)
    assert len(rows(sharded, JobPart)) == 2
    end_lease(sharded)
    cluster.places = {}
    assert sharded.worker.step()
    assert rows(sharded, Job)[-1].error == "The cluster has no node that can compose now."
    end_lease(sharded)
    cluster.asked.clear()
    cluster.fate, cluster.places = lambda _node, _ask: {"busy": "Others use it."}, {"b": Place("ray:b", 1)}
    assert sharded.worker.step()
    assert rows(sharded, Job)[-1].error == "Others use it.", "which is no fault of the job's"
    assert len(cluster.asked) == 3
    end_lease(sharded)
    cluster.asked.clear()
    cluster.fate = lambda _node, _ask: None
    other = Worker(sharded.settings, sharded.database, sharded.store)
    other.cluster = cluster
    assert other.step()
    assert len(cluster.asked) == 1, "only what was missing"
    assert ask(sharded)["weights_digest"] == local_digest(tmp_path, recipe)
    (build,) = rows(sharded, Build)
    assert build.nodes == ["ray:a", "ray:b"]


def test_what_no_node_can_do_ends_the_job_with_its_sentence(sharded: World, cluster: StandInCluster) -> None:
    ask(sharded)
    cluster.fate = lambda _node, _ask: {"lost": "It was killed."}
    assert sharded.worker.step()
    job = rows(sharded, Job)[-1]
    assert job.state == "failed"
    assert "was lost 3 times by the nodes that composed it. The last: It was killed." in job.error
    assert max(Counter(cluster.asked).values()) < 3, "not by one node alone"

    ask(sharded)
    cluster.fate = lambda _node, _ask: {
        "error": {"slug": "not-finite", "message": "Tensor 'w' overflows.", "field": "w"}
    }
    assert sharded.worker.step()
    assert (rows(sharded, Job)[-1].state, rows(sharded, Job)[-1].error) == ("failed", "Tensor 'w' overflows.")


def test_losses_of_several_kinds_put_the_job_off(sharded: World, cluster: StandInCluster) -> None:
    ask(sharded)
    fates = iter([{"lost": "It was killed."}] * 3 + [{"busy": "Others use it."}] * 6)  # three of each file
    cluster.fate = lambda _node, _ask: next(fates)
    cluster.places = {"a": cluster.places["a"]}
    assert sharded.worker.step()
    assert (rows(sharded, Job)[-1].state, rows(sharded, Job)[-1].error) == ("running", "Others use it.")


def test_what_a_lost_node_leaves_is_taken_for_no_result(
    sharded: World, cluster: StandInCluster, tmp_path: Path
) -> None:
    """It goes on where the disk is shared, and on its own disk its process was killed."""
    recipe = ask(sharded)["recipe"]
    own = cluster.machines["a"].store.staging

    def leave(node: str, sent: dict[str, Any]) -> dict[str, Any] | None:
        if (node, sent["path"]) != cluster.asked[0]:
            return None
        folder = own / sent["job"] / sent["key"] if sharded.store.kind == "disk" else own / f"{OWN}{sent['key']}"
        folder.mkdir()
        for name in ("other", ".0123.tmp", *FILES):
            (folder / name).write_bytes(b"wrong")
        return {"lost": "The node left."}

    cluster.fate = leave
    assert sharded.worker.step()
    assert ask(sharded)["weights_digest"] == local_digest(tmp_path, recipe)
    Node(cluster.machines["a"].settings)
    assert list(own.iterdir()) == []


def test_a_copy_that_goes_bad_on_a_node_is_fetched_again(
    sharded: World, cluster: StandInCluster, tmp_path: Path
) -> None:
    recipe = ask(sharded)["recipe"]
    sha256 = recipe["patches"][0]["sha256"]

    def spoil(node: str, _sent: dict[str, Any]) -> None:
        machine = cluster.machines[node]
        if len(cluster.asked) == 1:
            machine.store.hold(ExitStack(), [sha256])
            path = machine.store.path(sha256)
            path.chmod(0o644)
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(bytes([path.read_bytes()[-1] ^ 1]))

    cluster.fate = spoil
    assert sharded.worker.step()
    job = rows(sharded, Job)[-1]
    if sharded.store.kind == "disk":
        assert job.state == "failed" and "damaged" in job.error
    else:
        assert (job.state, job.error) == ("done", None)
        assert ask(sharded)["weights_digest"] == local_digest(tmp_path, recipe)


def test_a_cluster_whose_nodes_go_is_away_and_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = Pipe()
    ray = RayStandIn()
    monkeypatch.setattr(driver, "ray", lambda: ray)
    speaking = driver.Driver(theirs, 4, gpu=False)
    link = RayLink("127.0.0.1:1", 4, gpu=False)
    link._pipe, link._deadline = mine, time.monotonic() + 60
    assert not link.ready(0.0)
    speaking.look()
    assert link.ready(0.0) and link.nodes() == {"1": Place("ray:a", 2)}
    ray.alive = False
    for _ in range(3):
        speaking.look()
    assert link.ready(0.0) and link.nodes() == {}
    ray.alive, ray.address = True, "10.0.0.2"  # where others reach it, be it this machine's
    with pytest.raises(driver.Unsafe):
        speaking.look()
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    driver.Driver(theirs, 16, gpu=False).look()
    with pytest.raises(Refused, match="No node of the cluster has 16 processors"):
        link.nodes()


def test_what_parts_have_in_common_is_sent_once_and_outcomes_are_told_of_what_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine, theirs = Pipe()
    ray, sent = RayStandIn(), list[tuple[str, str]]()
    monkeypatch.setattr(driver, "ray", lambda: ray)
    speaking, link = driver.Driver(theirs, 4, gpu=False), RayLink("127.0.0.1:1", 4, gpu=False)
    link._pipe = mine
    actor = SimpleNamespace(compose=SimpleNamespace(remote=lambda *given: sent.append(given) or len(sent)))
    speaking.nodes = {"1": {"name": "ray:a", "slots": 2}}
    speaking.held = {("1", slot): driver.Held(actor, None, 0.0) for slot in range(2)}
    link.share({"tensors": [1, 2]})
    for key in ("k1", "k2"):
        link.submit(key, "1", {"path": key})
    for _ in range(3):
        speaking.take(json.loads(theirs.recv_bytes()))
    assert ray.kept == ['{"tensors": [1, 2]}']
    assert sent == [("object 1", '{"path": "k1"}'), ("object 1", '{"path": "k2"}')]
    link.cancel(["k2"])
    for key in ("k1", "k2"):
        speaking.tell({"key": key, "content": {"lost": "It died."}})
    assert [outcome.key for outcome in link.wait(0.0)] == ["k1"]
    assert link.wait(0.0) == [] and not link._submitted


def test_the_driver_hears_the_worker_while_it_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = Pipe()
    monkeypatch.setattr(driver, "ray", RayStandIn)
    speaking, long = driver.Driver(theirs, 4, gpu=False), "x" * 2**20

    def tell() -> None:
        with suppress(OSError):
            speaking.tell({"key": long})

    told = threading.Thread(target=tell, daemon=True)
    told.start()
    threading.Thread(target=speaking.listen, daemon=True).start()
    sent = threading.Thread(target=lambda: mine.send_bytes(json.dumps({"cancel": [long]}).encode()), daemon=True)
    sent.start()
    sent.join(30)
    assert not sent.is_alive(), "though nobody has read what it tells"
    mine.close()
    told.join(30)
    assert not told.is_alive()


class RayStandIn:
    """What the driver asks Ray: one node, with eight processors."""

    def __init__(self) -> None:
        self.alive, self.address, self.kept = True, "127.0.0.1", list[str]()

    def put(self, value: str) -> str:
        self.kept.append(value)
        return f"object {len(self.kept)}"

    def nodes(self) -> list[dict[str, Any]]:
        node = {"NodeID": "1", "NodeName": "a", "NodeManagerAddress": self.address, "Resources": {"CPU": 8.0}}
        return [node | {"Alive": self.alive}]


def test_a_bucket_or_disk_that_fails_on_every_node_puts_the_job_off(
    sharded: World, cluster: StandInCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(sharded)
    failed = {"slug": "storage-failed", "message": "The bucket does not answer.", "field": None}
    cluster.fate = lambda _node, _ask: {"error": failed}
    monkeypatch.setattr(sharded.worker.stopping, "wait", lambda _: False)
    bucket = sharded.store.kind == "bucket"
    assert sharded.worker.step() is not bucket, "it rests where any job would fail"
    job = rows(sharded, Job)[-1]
    assert (job.state, job.error) == ("running" if bucket else "failed", "The bucket does not answer.")


def test_a_job_that_is_cancelled_stops_the_nodes(sharded: World, cluster: StandInCluster) -> None:
    job = ask(sharded)["job"]["id"]
    going_on = threading.Event()

    def wait_for_ever(node: str, sent: dict[str, Any]) -> None:
        with sharded.database.write() as session:
            session.get_one(Job, uuid.UUID(job)).cancel_requested = True
        cluster.machines[node].compose = lambda _: going_on.wait(60)  # type: ignore[assignment,method-assign]

    cluster.fate = wait_for_ever
    assert sharded.worker.step()
    going_on.set()
    assert rows(sharded, Job)[-1].state == "cancelled"
    assert len(cluster.cancelled) == 1, "the other node is left for whoever confirms the build"


def test_a_node_refuses_another_version_and_another_registry(sharded: World, cluster: StandInCluster) -> None:
    recipe = ask(sharded)["recipe"]["digest"]
    seen: list[dict[str, Any]] = []
    cluster.fate = lambda _node, sent: seen.append(sent) or {"lost": "Kept for later."}
    sharded.worker.step()
    node, sent = cluster.machines["a"], seen[0]
    told = node.compose(sent | {"version": "0.0.0"})["error"]["message"]
    assert "and the worker 0.0.0; install the same." in told
    told = node.compose(sent | {"registry": "another"})["error"]["message"]
    assert "and the worker to another" in told
    with sharded.database.read() as session:
        assert session.get_one(Recipe, recipe).disputed is False

    ask(sharded)
    old = {"error": {"slug": WrongState.slug, "message": "Install the same.", "field": None}}
    cluster.asked.clear()
    cluster.fate = lambda node, _sent: old if node == cluster.asked[0][0] else None
    assert sharded.worker.step()
    assert rows(sharded, Job)[-1].state == "done", "the other node can"
    assert Counter(node for node, _ in cluster.asked).most_common()[-1][1] == 1, "it is asked once"


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "10.0.0.1", "host:0", "host:99999", "http://h:1", ""])
def test_an_address_that_is_none_of_a_cluster_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="ray start --address=HOST:6379"):
        check_address(address)


def test_a_node_has_as_many_places_as_its_processors_and_gpus_allow() -> None:
    assert check_address("auto") == "auto"
    assert check_address("10.0.0.1:6379") == "10.0.0.1:6379"
    assert slots_of({"CPU": 9.0}, 4, gpu=False) == 2
    assert slots_of({"CPU": 3.0}, 4, gpu=False) == 0
    assert slots_of({"CPU": 64.0, "GPU": 2.0}, 4, gpu=True) == 2
    assert slots_of({"CPU": 64.0}, 4, gpu=True) == 0


def test_builds_that_have_a_node_in_common_do_not_confirm_each_other() -> None:
    def made(builder: str, *nodes: str) -> Build:
        return Build(builder=builder, nodes=list(nodes) or None)

    first = made("one", "ray:a", "ray:b")
    assert builds.confirmed([first, made("two", "ray:b", "ray:c"), made("one again", "ray:c")])
    assert builds.confirmed([first, made("two")])
    overlapping = [first, made("two", "ray:b", "ray:c")]
    assert not builds.confirmed(overlapping) and not builds.confirmed([first])
    told = builds.dispute(["sha256:1"], overlapping, "alice/tiny@1.0.0")
    assert told and "composed by ray:a, ray:b, ray:c alone" in told

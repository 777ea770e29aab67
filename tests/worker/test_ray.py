"""Composing on a real Ray cluster: two raylets on this machine, each with a folder of its own, and a bucket."""

import importlib.util
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from registry.cli.running import connect
from registry.db.tables import Build, Composition, Job, JobPart, now
from registry.errors import InvalidRequest
from registry.services.operating import identity
from registry.worker.cluster.link import RayLink
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.ray_clusters import RayCluster, open_ray
from tests.support.s3_stand_in import S3
from tests.support.world import World, create_model, push_patch
from tests.worker.test_nodes import URL, ask, end_lease, local_digest, rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # Ray takes half a minute to see that a node has died
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="the extra ray is not installed"),
]


@pytest.fixture(params=["sqlite"])
def database_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world_settings(s3: S3) -> dict[str, Any]:
    return {"store": "bucket", "lease_seconds": 30, **s3.settings("blobs")}


@pytest.fixture
def nodes(world: World, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayCluster]:
    """A head `a` and a node `b`, with two places each."""
    with open_ray() as cluster:
        for name in ("a", "b"):
            bucket = {f"REGISTRY_{key.upper()}": value for key, value in s3.settings("blobs").items()}
            cluster.start(name, {"REGISTRY_DATA": str(tmp_path / name), "REGISTRY_STORE": "bucket", **bucket}, cpus=2)
        for key, value in cluster.environment.items():
            monkeypatch.setenv(key, value)
        yield cluster


def test_a_node_and_a_cluster_are_killed_and_nothing_is_lost(
    world: World, nodes: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.token("alice")
    identity.claim(world.database, world.store)
    base = make_checkpoint(tmp_path / "base", shards=8)
    create_model(world, "alice/tiny", base)
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), tmp_path / "patch.safetensors")
    push_patch(world, "alice/tiny", tmp_path / "patch.safetensors")
    with pytest.raises(InvalidRequest, match="No node of the cluster has 64 processors"):
        connect(nodes.address, 64, gpu=False)
    cluster = connect(nodes.address, 1, gpu=False)
    assert isinstance(cluster, RayLink)
    assert {place.name for place in cluster.nodes().values()} == {"ray:a", "ray:b"}
    recipe = ask(world)["recipe"]
    record, all_nodes, killed = world.worker.record, cluster.nodes, list[str]()

    def killing(claim: Any, composed: Any, part: Any, staged: Any, **options: Any) -> None:
        """Kill the node b once it has composed a file, and once a has composed one the process that speaks Ray."""
        record(claim, composed, part, staged, **options)
        if not killed:
            nodes.kill("b")
        elif len(killed) == 1:
            assert cluster._process is not None
            os.kill(cluster._process.pid, signal.SIGKILL)
        killed.append(part.builder)

    def nodes_left() -> Any:
        """Return b alone until it has composed a file, and one place of each, so that no two are done at once."""
        return {key: replace(place, slots=1) for key, place in all_nodes().items() if killed or place.name == "ray:b"}

    monkeypatch.setattr(cluster, "nodes", nodes_left)
    monkeypatch.setattr(world.worker, "record", killing)
    world.worker.cluster = cluster
    try:
        assert world.worker.step()
        job = rows(world, Job)[-1]
        assert (job.state, job.error) == ("running", f"The cluster at {nodes.address} is away.")
        assert killed == ["ray:b", "ray:a"]
        assert len(rows(world, JobPart)) == 2
        end_lease(world)
        assert world.worker.step(), "another process speaks Ray; what is recorded is not composed again"
        done = ask(world)
        assert done["weights_digest"] == local_digest(tmp_path, recipe)
        (build,) = rows(world, Build)
        assert build.nodes == ["ray:a", "ray:b"]
        files = world.client(None).get(f"{URL}/revisions/{recipe['digest']}").json()["files"]
        assert all(world.store.exists(file["sha256"]) for file in files)

        nodes.kill("a")
        with world.database.write() as session:
            session.delete(session.scalars(select(Composition)).one())
        ask(world)
        assert world.worker.step()
        job = rows(world, Job)[-1]
        assert job.state == "running" and "The cluster at" in job.error
        assert job.lease_until > now()
    finally:
        cluster.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ray")]

"""Metrics of workers: what they count, and who may read it."""

import re
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr

from registry.errors import InvalidRequest
from registry.worker.metrics import WorkerMetrics, serving_metrics
from tests.support.makers import make_checkpoint
from tests.support.processes import open_registry, person, until
from tests.support.world import World, create_model, enqueue

TOKEN = "of-the-operator-for-prometheus"


def test_attempts_at_jobs_are_counted_by_kind_and_outcome(world: World, tmp_path: Path) -> None:
    create_model(world, "alice/b", make_checkpoint(tmp_path / "base"))
    enqueue(world)  # a recipe that nobody has asked for
    world.work()

    def count(kind: str, outcome: str) -> float | None:
        found = {"kind": kind, "outcome": outcome}
        return world.worker.metrics.registry.get_sample_value("registry_job_seconds_count", found)

    assert count("import", "done") == 1
    assert count("compose", "done") is None and count("compose", "postponed") == 1


def test_metrics_are_for_whoever_has_the_token() -> None:
    with serving_metrics(WorkerMetrics(), "127.0.0.1", 0, SecretStr(TOKEN)) as port:
        url = f"http://127.0.0.1:{port}/metrics"
        answers = [
            httpx2.get(url, headers=headers)
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}x"}, {"Authorization": f"Bearer {TOKEN}"})
        ]
    assert [answer.status_code for answer in answers] == [401, 401, 200]
    assert "process_resident_memory_bytes" in answers[2].text and "registry_" not in answers[0].text


def test_metrics_without_a_token_stay_on_this_machine() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "crumbs.example.org", ""):
        with (
            pytest.raises(InvalidRequest, match="REGISTRY_METRICS_TOKEN"),
            serving_metrics(WorkerMetrics(), host, 0, None),
        ):
            pass
    taken = pytest.raises(InvalidRequest, match="choose another --metrics-port")
    with (
        serving_metrics(WorkerMetrics(), "127.0.0.1", 0, None) as port,
        taken,
        serving_metrics(WorkerMetrics(), "127.0.0.1", port, None),
    ):
        pass


@pytest.mark.slow
def test_a_worker_answers_prometheus_while_it_works(tmp_path: Path) -> None:
    with open_registry(tmp_path / "registry", metrics_token=TOKEN) as registry:
        registry.serve("--no-worker")
        registry.start("worker", "--metrics-port", "0")
        port = until(lambda: re.search(r"Metrics at http://127\.0\.0\.1:(\d+)/", registry.logs()))[1]
        person(registry, "alice").crumb("model", "create", "alice/m", "--base", str(make_checkpoint(tmp_path / "base")))
        text = httpx2.get(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    assert 'registry_job_seconds_count{kind="import",outcome="done"} 1.0' in text

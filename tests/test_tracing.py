"""Traces: a request, the job that it queued, and what the job's process did are one trace; nothing is sent unasked."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from registry import tracing
from registry.sandboxes import stages
from tests.support.makers import fine_tuned, make_checkpoint, make_patch
from tests.support.processes import open_registry, person
from tests.support.servers import serving
from tests.support.world import World, create_model, enqueue, push_patch

pytestmark = pytest.mark.heavy

FORGED = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.start("http://127.0.0.1:1/", "tests", "1", exporter)
    yield exporter
    tracing.stop()


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return found


def parent(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def test_a_job_goes_on_with_the_trace_of_its_request(world: World, tmp_path: Path, spans: InMemorySpanExporter) -> None:
    create_model(world, "alice/m", make_checkpoint(tmp_path / "base"))
    request, job = named(spans, "POST /api/v1/models"), named(spans, "job import")
    process, task = named(spans, "process import_base"), named(spans, "registry.sandboxes.tasks:import_base")
    assert [parent(request), parent(job), parent(process), parent(task)] == [
        None,
        *(span.context.span_id for span in (request, job, process)),
    ]
    assert {span.context.trace_id for span in (request, job, process, task)} == {request.context.trace_id}
    attributes = dict(request.attributes or {})
    assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/api/v1/models", 202)
    assert dict(job.attributes or {})["crumb.outcome"] == "done"
    assert job.start_time <= process.start_time <= task.start_time <= task.end_time <= process.end_time
    within = [span.name for span in spans.get_finished_spans() if parent(span) == process.context.span_id]
    assert within == [task.name]  # and nothing of what the process was warmed up with


def test_a_composition_is_traced_to_its_kernels(world: World, tmp_path: Path, spans: InMemorySpanExporter) -> None:
    base = make_checkpoint(tmp_path / "base")
    create_model(world, "alice/m", base)
    patch = tmp_path / "p.safetensors"
    make_patch(base, fine_tuned(base, tmp_path / "tuned"), patch)
    number = push_patch(world, "alice/m", patch)["number"]
    body = {"patches": [{"number": number, "revision": 1}], "alpha": "0.5"}
    answer = world.client("alice").post("/api/v1/models/alice/m/compositions", json=body)
    assert answer.status_code == 202, answer.text
    world.work()
    job, kernels = named(spans, "job compose"), named(spans, "kernels")
    assert kernels.context.trace_id == job.context.trace_id
    assert dict(kernels.attributes or {}) == {"device": "cpu", "patches": "1", "method": "sum"}


def test_a_job_that_fails_says_so_without_names(world: World, spans: InMemorySpanExporter) -> None:
    enqueue(world)  # a recipe that nobody has asked for
    world.work()
    job = named(spans, "job compose")
    assert not job.status.is_ok and job.events == () and job.status.description is None
    assert dict(job.attributes or {})["error.type"] == "postponed"
    assert not any("alice" in str(span.to_json()) for span in spans.get_finished_spans())


def test_a_trace_that_a_stranger_names_is_not_continued(world: World, spans: InMemorySpanExporter) -> None:
    assert world.client(None).get("/healthz", headers=FORGED).status_code == 200
    assert parent(named(spans, "GET /healthz")) is None


@pytest.mark.parametrize(
    "told",
    [None, {}, [None], [["n"]], [["n", 2, 1, {}]], [["n", -1, 1, {}]], [[1, 1, 2, {}]], [["n", 1, 2**80, {}]]],
)
def test_stages_that_are_none_are_dropped(told: Any) -> None:
    assert stages.sound(told) == []


def test_stages_of_a_process_are_bounded() -> None:
    told = [["n" * 10_000, 1, 2, {"k" * 1000: "v" * 1000}]] * 1000
    found = stages.sound(told)
    assert len(found) == stages.MOST
    assert found[0] == ("n" * stages.MOST_TEXT, 1, 2, {"k" * stages.MOST_TEXT: "v" * stages.MOST_TEXT})


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_server_and_worker_send_one_trace_to_a_collector(tmp_path: Path, processes: int) -> None:
    taken: list[tuple[str, Any]] = []
    lock = threading.Lock()

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                for resource in body.resource_spans:
                    service = {pair.key: pair.value.string_value for pair in resource.resource.attributes}[
                        "service.name"
                    ]
                    taken.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    def trace_of(name: str) -> set[tuple[str, bytes]]:
        with lock:
            return {(service, span.trace_id) for service, span in taken if span.name == name}

    with serving(Collector) as url, open_registry(tmp_path / "registry", traces=f"{url}/v1/traces") as registry:
        if processes == 1:
            registry.serve("--no-worker")
            registry.start("worker")
        else:
            registry.serve("--processes", str(processes))
        person(registry, "alice").crumb("model", "create", "alice/m", "--base", str(make_checkpoint(tmp_path / "base")))
        registry.stop()  # they send what waits before they end
        ((_, trace),) = trace_of("job import")
        assert trace_of("POST /api/v1/models") == {("crumb-server", trace)}
        assert trace_of("registry.sandboxes.tasks:import_base") == {("crumb-worker", trace)}

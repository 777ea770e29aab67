"""Metrics of a worker and its courier: what they count, and the address at which Prometheus reads it."""

import hmac
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from socketserver import ThreadingMixIn
from threading import BoundedSemaphore, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, make_wsgi_app
from pydantic import SecretStr

import registry
from registry.errors import InvalidRequest

JOB_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 14400.0)
MOST_SCRAPES = 8  # at a time
SCRAPE_SECONDS = 10.0  # longest wait for the next bytes of a scrape


class WorkerMetrics:
    """The counters of a worker.

    Args:
        where: Has them, beside those of a server; None for a registry of their own.
    """

    def __init__(self, where: CollectorRegistry | None = None) -> None:
        self.registry = where or CollectorRegistry()
        self.jobs = Histogram(
            "registry_job_seconds",
            "Time of an attempt at a job",
            ("kind", "outcome"),
            buckets=JOB_SECONDS,
            registry=self.registry,
        )
        said = "Attempts to deliver an event to a webhook"
        self.deliveries = Counter("registry_webhook_attempts", said, ("outcome",), registry=self.registry)
        said = "Copies of blobs into the bucket"
        self.copies = Counter("registry_bucket_copies", said, ("outcome",), registry=self.registry)


class QuietHandler(WSGIRequestHandler):
    """A scrape, which no log has."""

    timeout = SCRAPE_SECONDS

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A server of few threads, which end with the process; who asks for more is hung up on."""

    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self.places = BoundedSemaphore(MOST_SCRAPES)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there are not too many."""
        if self.places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, in that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()


@contextmanager
def serving_metrics(metrics: WorkerMetrics, host: str, port: int, token: SecretStr | None) -> Iterator[int]:
    """Answer Prometheus' scrapes, with what the process takes from the machine as well; yield the port.

    Args:
        metrics: The counters.
        host: The address to listen on.
        port: Its port; 0 picks a free one.
        token: What a scrape has to bring; it may be None on an address of this machine alone.

    Raises:
        InvalidRequest: The address is not this machine's alone and there is no token, or it cannot be listened on.
    """
    if token is None and not is_loopback(host):
        raise InvalidRequest(
            f"Other machines could read the metrics at {host}; set REGISTRY_METRICS_TOKEN, or leave out "
            "--metrics-host.",
            field="metrics_host",
        )
    ProcessCollector(registry=metrics.registry)
    build = Gauge("registry_build_info", "The version that runs", ("version",), registry=metrics.registry)
    build.labels(registry.version()).set(1)
    answer = make_wsgi_app(metrics.registry)
    expected = f"Bearer {token.get_secret_value()}" if token else None

    def admit(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = environ.get("HTTP_AUTHORIZATION", "")
        if expected is None or hmac.compare_digest(given.encode(), expected.encode()):
            scraped: Iterable[bytes] = answer(environ, start_response)
            return scraped
        start_response("401 Unauthorized", [("WWW-Authenticate", "Bearer"), ("Content-Type", "text/plain")])
        return [b"Send the token of REGISTRY_METRICS_TOKEN.\n"]

    try:
        server = make_server(host, port, admit, MetricsServer, QuietHandler)
    except OSError as why:
        raise InvalidRequest(
            f"{host}:{port} cannot be listened on: {why.strerror or why}; choose another --metrics-port.",
            field="metrics_port",
        ) from why
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

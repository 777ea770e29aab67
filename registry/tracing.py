"""Traces: spans of requests, jobs and their processes, for OpenTelemetry. Nothing of it is imported unless it is on.

A request is a trace. What it queues carries its `traceparent`, and the worker's span of that job goes on with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from registry.errors import MissingExtra

_provider: Any = None  # of spans, once they are sent
_tracer: Any = None


class Span(Protocol):
    """What is said of a span once it is known."""

    def update_name(self, name: str) -> None:
        """Give it another name."""

    def set_attribute(self, key: str, value: str | int | float | bool) -> None:
        """Say something of it."""

    def set_status(self, status: Any) -> None:
        """Say whether it failed."""


class NoSpan:
    """A span of a process that sends none."""

    def update_name(self, name: str) -> None:
        """Do nothing."""

    def set_attribute(self, key: str, value: str | int | float | bool) -> None:
        """Do nothing."""

    def set_status(self, status: Any) -> None:
        """Do nothing."""


NO_SPAN = NoSpan()


def start(address: str, service: str, version: str, exporter: Any = None) -> None:
    """Send spans to an address from now on, in this process.

    The sampler, the headers and what else the SDK knows are set by its own OTEL_ variables.

    Args:
        address: Where OTLP is taken over HTTP, like http://127.0.0.1:4318/v1/traces.
        service: What this process is: crumb-server or crumb-worker.
        version: Its version.
        exporter: Gets each span at once, in place of the address.

    Raises:
        MissingExtra: OpenTelemetry's SDK is not installed.
    """
    global _provider, _tracer
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    except ModuleNotFoundError as why:
        raise MissingExtra(
            f"REGISTRY_TRACES needs {why.name}, which is not installed; run `pip install 'breadcrumb-registry[otel]'`."
        ) from why
    about = Resource.create({"service.name": service, "service.version": version})
    _provider = TracerProvider(resource=about, shutdown_on_exit=False)
    sends = SimpleSpanProcessor(exporter) if exporter else BatchSpanProcessor(OTLPSpanExporter(endpoint=address))
    _provider.add_span_processor(sends)
    _tracer = _provider.get_tracer("registry", version)


def stop() -> None:
    """Send the spans that wait, which takes seconds if nobody takes them, and no more from this process."""
    global _provider, _tracer
    if _provider is not None:
        _provider.shutdown()
    _provider = _tracer = None


@contextmanager
def span(name: str, kind: str = "internal", carried: str | None = None, **attributes: Any) -> Iterator[Span]:
    """Have a span around what is done inside; the class of an error that leaves it is noted in it, not its text.

    Args:
        name: What is done, in few different words.
        kind: server, consumer or internal.
        carried: The `traceparent` of the span that asked for this; None for the present span of this thread, if any.
        attributes: What is known of it, with `__` for the dots of a key.
    """
    if _tracer is None:
        yield NO_SPAN
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    parent = TraceContextTextMapPropagator().extract({"traceparent": carried}) if carried else None
    known = {key.replace("__", "."): value for key, value in attributes.items()}
    of_kind = SpanKind[kind.upper()]
    silent = {"record_exception": False, "set_status_on_exception": False}  # their texts have names and paths
    with _tracer.start_as_current_span(name, context=parent, kind=of_kind, attributes=known, **silent) as begun:
        try:
            yield begun
        except BaseException as error:
            fail(begun, type(error).__name__)
            raise


def fail(span: Span, kind: str) -> None:
    """Mark a span as failed, by a kind of failure."""
    span.set_attribute("error.type", kind)
    if _tracer is not None:
        from opentelemetry.trace import StatusCode

        span.set_status(StatusCode.ERROR)


def carry() -> dict[str, str]:
    """Return the present span as what a job carries: a `traceparent`, or nothing without a span."""
    carried: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(carried)
    return {name: value for name, value in carried.items() if name == "traceparent"}


def add(name: str, began: int, ended: int, attributes: dict[str, str]) -> None:
    """Add a span within the present one, of what another process did.

    Args:
        name: What was done.
        began: When, in nanoseconds since 1970.
        ended: When it ended, likewise.
        attributes: What is known of it.
    """
    if _tracer is not None:
        _tracer.start_span(name, start_time=began, attributes=attributes).end(end_time=ended)

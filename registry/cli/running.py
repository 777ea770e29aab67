"""serve, worker, migrate: running a registry."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

import registry
from registry import tracing
from registry.cli.common import ConfigFile, Data, Migrate, claim, open_store, parse_size, prepare, settings_for
from registry.errors import InvalidRequest

if TYPE_CHECKING:
    from socket import socket

    from registry.db.session import Database
    from registry.server.edge.serving import Server
    from registry.services.queue.abilities import Ability
    from registry.settings import Settings
    from registry.worker.cluster.link import Cluster
    from registry.worker.metrics import WorkerMetrics
    from registry.worker.worker import Worker

MOST_PROCESSES = 256
MAILER_ENDS_WITHIN = 10.0  # seconds; a mail that is being handed over then is due again


def make_worker(
    settings: "Settings",
    database: "Database | None" = None,
    metrics: "WorkerMetrics | None" = None,
    cluster: "Cluster | None" = None,
    ability: "Ability | None" = None,
) -> "Worker":
    """Return a worker on the settings' store and database; one that is open in this process notifies it directly."""
    from registry.db.session import open_database
    from registry.worker.worker import Worker

    database = database or open_database(settings.database)
    worker = Worker(settings, database, open_store(settings, database), metrics)
    worker.cluster, worker.ability = cluster, ability or worker.ability
    return worker


@contextmanager
def senders_beside(settings: "Settings", worker: "Worker") -> Iterator[None]:
    """Run a courier, which delivers webhooks, and a mailer, if there is a mail server, in threads beside a worker."""
    from registry.worker.courier import Courier
    from registry.worker.mailer import Mailer

    courier, mailer = Courier(settings, worker.database, metrics=worker.metrics), None
    threads = [threading.Thread(target=courier.run, name="courier")]
    if settings.mail_server:
        mailer = Mailer(settings, worker.database)
        threads.append(threading.Thread(target=mailer.run, name="mailer", daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        courier.stopping.set()
        if mailer:
            mailer.stop()
        for thread in threads:
            thread.join(MAILER_ENDS_WITHIN if thread.daemon else None)


@contextmanager
def ending_in_order(server: "Server") -> Iterator[None]:
    """Hold SIGTERM back until what is inside has ended: uvicorn raises it again as soon as the server has."""
    noted: list[int] = []

    def note(number: int, _frame: object) -> None:
        noted.append(number)
        server.should_exit = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if noted:
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def traced(settings: "Settings", service: str, server: "Server | None" = None) -> Iterator[None]:
    """Send traces of what is done inside, if the settings say where; a signal ends a server after the last of them."""
    with ExitStack() as stack:
        if settings.traces:
            if server is not None:
                stack.enter_context(ending_in_order(server))
            tracing.start(settings.traces, service, registry.version())
            stack.callback(tracing.stop)
        yield


def serve(
    data: Data = None,
    config: ConfigFile = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8000,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run a worker too.")] = True,
    processes: Annotated[
        int, typer.Option(min=1, max=MOST_PROCESSES, help="Processes that answer requests, beside that of the worker.")
    ] = 1,
    migrate: Migrate = True,
) -> None:
    """Serve the HTTP API and the web pages.

    With --no-migrate, refuse a database that is not at the newest migration: `crumb-server migrate` brings it there,
    once for all servers and workers.
    """
    from registry.logs import configure_logs
    from registry.sandboxes.sandbox import warm_up
    from registry.server.app import create_app
    from registry.server.edge.serving import listen, make_server, run_beside

    settings = settings_for(data, config)
    configure_logs(settings.log_format)
    prepare(settings, migrates=migrate, own=True)
    claim(settings)
    try:
        sockets = listen(host, port)
    except OSError as why:
        raise InvalidRequest(
            f"{host}:{port} cannot be listened on: {why.strerror or why}; choose another --port or --host.",
            field="port",
        ) from why
    if processes > 1:
        serve_by_many(settings, host, port, sockets, processes, worker)
        return
    app = create_app(settings)
    server = make_server(app, host, port, settings.header_seconds, lambda url: print(f"Listening on {url}", flush=True))
    if worker:
        from registry.worker.metrics import WorkerMetrics

        beside = make_worker(settings, app.state.context.database, WorkerMetrics(app.state.metrics.registry))
        with ending_in_order(server), traced(settings, "crumb-server"), senders_beside(settings, beside):
            run_beside(beside.run, beside.stop, server, sockets)
    else:
        warm_up()
        with traced(settings, "crumb-server", server):
            server.run(sockets)
    if not server.started:
        raise SystemExit(1)


def serve_by_many(
    settings: "Settings", host: str, port: int, sockets: "list[socket]", processes: int, worker: bool
) -> None:
    """Serve by several processes on one socket, with one worker and one courier in a process of their own.

    Raises:
        InvalidRequest: The system cannot fork processes.
    """
    from registry.sandboxes.sandbox import warm_up
    from registry.server.app import create_app, open_shared
    from registry.server.edge.serving import address_of, make_server
    from registry.server.processes.metrics import Metrics
    from registry.server.processes.supervising import Child, Ready, Supervisor
    from registry.worker.metrics import WorkerMetrics

    if not hasattr(os, "fork"):
        raise InvalidRequest("This system cannot fork processes; leave out --processes.", field="processes")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="crumb-server-")))
        url = address_of(sockets[0])
        shared = open_shared(settings, processes, folder)

        def answer(number: int, ready: Ready) -> None:
            shared.join(number)
            app = create_app(settings, shared)
            warm_up()
            server = make_server(app, host, port, settings.header_seconds, lambda _: ready(), alone=False)
            with traced(settings, "crumb-server", server):
                server.run(sockets)

        def close() -> None:
            for listener in sockets:
                listener.close()

        def work(ready: Ready) -> None:
            close()
            counted = Metrics(folder, "worker")  # beside those of the others, in /metrics
            run_worker(settings, ready, WorkerMetrics(counted.registry))

        children = [
            Child(f"server {number}", partial(answer, number), partial(shared.free, number))
            for number in range(processes)
        ]
        if worker:
            children.append(Child("worker", work, lambda: None))
        ended_by = Supervisor(children, lambda: print(f"Listening on {url}", flush=True), close).run()
    if ended_by is None:
        raise SystemExit(1)
    signal.raise_signal(ended_by)


def run_worker(
    settings: "Settings",
    ready: Callable[[], None],
    metrics: "WorkerMetrics",
    cluster: "Cluster | None" = None,
    ability: "Ability | None" = None,
) -> None:
    """Run a worker and a courier, which count what they do, until a signal ends them."""
    runner = make_worker(settings, metrics=metrics, cluster=cluster, ability=ability)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: runner.stop())
    ready()
    with traced(settings, "crumb-worker"), senders_beside(settings, runner):
        runner.run()


def worker(
    data: Data = None,
    config: ConfigFile = None,
    migrate: Migrate = True,
    jobs: Annotated[
        str,
        typer.Option(
            metavar="KINDS",
            help="Take only jobs of these kinds, with commas: import, check, diff, compose, rebuild, conflicts.",
        ),
    ] = "",
    most_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Leave jobs that work on more bytes of files (base, patches, result), like 200GB."
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Answer Prometheus at this port, at /metrics; 0 picks a free one."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(help="Address of that port; others than this machine's need REGISTRY_METRICS_TOKEN.")
    ] = "127.0.0.1",
    ray: Annotated[
        str | None,
        typer.Option(metavar="auto|HOST:PORT", help="Compose on the nodes of the Ray cluster that this machine is of."),
    ] = None,
    ray_cpus: Annotated[int, typer.Option(min=1, help="Processors of a node that composing a weight file uses.")] = 4,
) -> None:
    """Run a worker: check patches and compose models. Any number may run, on any machine that shares the folder.

    With --ray, which needs the extra `ray`, each weight file of a composition is composed on a node of a cluster, with
    the settings in the environment of `ray start` there. REGISTRY_DEVICE=cuda reserves a GPU for each.
    """
    from registry.logs import configure_logs
    from registry.services.queue.abilities import Ability, parse_kinds
    from registry.worker.metrics import WorkerMetrics, serving_metrics

    settings = settings_for(data, config)
    ability = Ability(parse_kinds(jobs), None if most_bytes is None else parse_size(most_bytes, "most-bytes"))
    configure_logs(settings.log_format)
    prepare(settings, migrates=migrate, own=True)
    claim(settings)
    metrics = WorkerMetrics()
    with ExitStack() as stack:
        cluster = connect(ray, ray_cpus, gpu=settings.device == "cuda") if ray else None
        if metrics_port is not None:
            port = stack.enter_context(serving_metrics(metrics, metrics_host, metrics_port, settings.metrics_token))
            print(f"Metrics at http://{metrics_host}:{port}/metrics", flush=True)
        run_worker(settings, lambda: None, metrics, cluster, ability)


def connect(address: str, cpus: int, *, gpu: bool) -> "Cluster":
    """Return a Ray cluster; one that does not answer yet is asked again for each job.

    Raises:
        InvalidRequest: The address is not one, no node could ever compose, or the cluster lets in whoever asks.
        MissingExtra: Ray is not installed.
    """
    import structlog

    from registry.extras import require_extra
    from registry.worker.cluster.link import Away, RayLink, Refused

    link = RayLink(address, cpus, gpu=gpu)
    require_extra("ray")
    try:
        while not link.ready(1.0):
            pass
        nodes = link.nodes()
        structlog.get_logger().info("cluster.joined", nodes=sorted(place.name for place in nodes.values()))
    except Refused as why:
        raise InvalidRequest(str(why), field="ray") from None
    except Away as why:
        structlog.get_logger().warning("cluster.away", error=str(why))
    return link


def migrate(data: Data = None, config: ConfigFile = None) -> None:
    """Bring the database to the newest migration."""
    settings = settings_for(data, config)
    prepare(settings)
    print("The database is at the newest migration.")

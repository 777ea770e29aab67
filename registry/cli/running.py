"""serve, worker, migrate: running a registry."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from registry.cli.common import Data, open_store, prepare, settings_for

if TYPE_CHECKING:
    from registry.settings import Settings
    from registry.worker.worker import Worker


def make_worker(settings: "Settings") -> "Worker":
    """Return a worker on the settings' database and store."""
    from registry.db.session import open_database
    from registry.worker.worker import Worker

    return Worker(settings, open_database(settings.database), open_store(settings))


@contextmanager
def courier_beside(settings: "Settings", worker: "Worker") -> Iterator[None]:
    """Run a courier, which delivers webhooks, in a thread beside a worker."""
    from registry.worker.courier import Courier

    courier = Courier(settings, worker.database)
    thread = threading.Thread(target=courier.run, name="courier")
    thread.start()
    try:
        yield
    finally:
        courier.stopping.set()
        thread.join()


def serve(
    data: Data = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = 8000,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run a worker in this process too.")] = True,
) -> None:
    """Serve the HTTP API and the web pages; migrations are applied at start."""
    from registry.logs import configure_logs
    from registry.server.app import create_app
    from registry.server.edge.serving import make_server, run_beside

    settings = settings_for(data)
    configure_logs(settings.log_format)
    prepare(settings)
    server = make_server(
        create_app(settings), host, port, settings.header_seconds, lambda url: print(f"Listening on {url}", flush=True)
    )
    if worker:
        beside = make_worker(settings)
        with courier_beside(settings, beside):
            run_beside(beside.run, beside.stopping.set, server)
    else:
        server.run()
    if not server.started:
        raise SystemExit(1)


def worker(data: Data = None) -> None:
    """Run a worker: check patches and compose models. Any number may run, on any machine that shares the folder."""
    from registry.logs import configure_logs

    settings = settings_for(data)
    configure_logs(settings.log_format)
    prepare(settings)
    runner = make_worker(settings)
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: runner.stopping.set())
    with courier_beside(settings, runner):
        runner.run()


def migrate(data: Data = None) -> None:
    """Bring the database to the newest migration."""
    settings = settings_for(data)
    prepare(settings)
    print("The database is at the newest migration.")

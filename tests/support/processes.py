"""Real processes: `crumb-server serve`, `crumb-server worker` and `crumb`, started, watched and killed."""

import contextlib
import http.server
import io
import json
import math
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import httpx2

from client.cli import run
from tests.support import launcher
from tests.support.databases import seed
from tests.support.launcher import CRUMB, SERVER, Process


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something that another process makes true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)
    return found


@dataclass
class Registry:
    """A registry in processes of its own, on one data folder."""

    folder: Path
    environment: dict[str, str]
    url: str = ""
    running: list[Process] = field(default_factory=list)
    program: Path | None = None  # a `crumb-server` other than that of the source at hand

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self, *arguments: str) -> Process:
        """Start `crumb-server` with its log in a file."""
        with (self.folder / f"server-{len(self.running)}.log").open("w") as log:
            command = [*arguments, "--data", str(self.data)]
            out, errors = subprocess.PIPE if arguments[0] == "serve" else log.fileno(), log.fileno()
            process: Process
            if self.program:
                process = subprocess.Popen(
                    [self.program, *command], env=self.environment, stdout=out, stderr=errors, text=True
                )
            else:
                process = launcher.start(SERVER, command, self.environment, stdout=out, stderr=errors)
        self.running.append(process)
        return process

    def serve(self, *arguments: str) -> Process:
        """Start serving, and wait until it listens."""
        process = self.start("serve", "--port", self.url.rpartition(":")[2] or "0", *arguments)
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found, "the server did not start"
        self.url = found[0]
        return process

    def token(self, user: str, *options: str) -> str:
        command = ["token", "create", user, *options, "--data", str(self.data)]
        return launcher.run(SERVER, *command, environment=self.environment, check=True).stdout.strip()

    def check(self) -> None:
        """Let `crumb-server check` look over every blob."""
        launcher.run(SERVER, "check", "--data", str(self.data), environment=self.environment, check=True)

    def collect(self) -> None:
        """Let `crumb-server gc` remove what is left over, and give files without a row one."""
        launcher.run(SERVER, "gc", "--data", str(self.data), environment=self.environment, check=True)

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running:
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()

    def logs(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("server-*.log")))


@contextmanager
def open_registry(folder: Path, database_url: str | None = None, **settings: object) -> Iterator[Registry]:
    """Lend a registry; settings are those of registry/settings.py."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("REGISTRY_", "CRUMB_"))}
    environment |= {f"REGISTRY_{key.upper()}": str(value) for key, value in settings.items()}
    environment |= {"OMP_NUM_THREADS": "1", "REGISTRY_POLL_SECONDS": "0.2"}
    if database_url:
        environment["DATABASE_URL"] = database_url
    folder.mkdir(parents=True, exist_ok=True)
    registry = Registry(folder, environment)
    if database_url is None:
        seed(registry.data)
    try:
        yield registry
    finally:
        registry.stop()


class Valve:
    """A proxy on loopback that lets some bytes through, then none until it is opened: nobody is killed too late.

    Args:
        url: Where the bytes go on to.
        up: Bytes that may pass from clients to the server.
        down: Bytes that may pass from the server to clients.
    """

    def __init__(self, url: str, up: float = math.inf, down: float = math.inf) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self.there = (host, int(port))
        self.left = {"up": up, "down": down}
        self.shut, self.opened, self.lock = threading.Event(), threading.Event(), threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.threads = [threading.Thread(target=self.accept)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self.there)
            except OSError:
                client.close()
                continue
            for source, sink, way in ((client, server, "up"), (server, client, "down")):
                self.threads.append(threading.Thread(target=self.pump, args=(source, sink, way)))
                self.threads[-1].start()

    def pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with contextlib.suppress(OSError), source:
            while chunk := source.recv(4096):
                with self.lock:
                    self.left[way] -= len(chunk)
                    stuck = self.left[way] < 0
                if stuck:
                    self.shut.set()
                    self.opened.wait()
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def __enter__(self) -> "Valve":
        return self

    def __exit__(self, *_: object) -> None:
        self.opened.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(10)


class Cutter:
    """A proxy on loopback that cuts off one answer, once it is so many bytes long; then it lets everything through.

    Args:
        url: Where the bytes go on to.
        after: Bytes of an answer after which its connection is closed.

    Attributes:
        cut: Set once that has happened.
        ranges: The first byte that each GET of something asked for, None for the whole.
    """

    def __init__(self, url: str, after: int) -> None:
        self.cut, self.ranges = threading.Event(), list[int | None]()
        cutter, there = self, url

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.pass_on("HEAD")

            def do_GET(self) -> None:
                self.pass_on("GET")

            def pass_on(self, method: str) -> None:
                asked = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                if method == "GET":
                    found = re.fullmatch(r"bytes=([0-9]+)-", asked.get("Range", asked.get("range", "")))
                    cutter.ranges.append(int(found[1]) if found else None)
                with httpx2.stream(method, there + self.path, headers=asked) as answer:
                    self.send_response(answer.status_code)
                    for name, value in answer.headers.items():
                        if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                            self.send_header(name, value)
                    self.end_headers()
                    sent = 0
                    for chunk in answer.iter_raw(2**16):
                        self.wfile.write(chunk)
                        sent += len(chunk)
                        if sent >= after and not cutter.cut.is_set():
                            cutter.cut.set()
                            self.close_connection = True
                            return

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> "Cutter":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@dataclass
class Person:
    """Somebody with `crumb`, a home folder and a token."""

    registry: Registry
    name: str
    home: Path
    token: str

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.registry.environment,
            "CRUMB_HOME": str(self.home),
            "CRUMB_URL": self.registry.url,
            "CRUMB_TOKEN": self.token,
        }

    def start(self, *arguments: str, url: str | None = None) -> Process:
        """Start a command and leave it running."""
        environment = {**self.environment, "CRUMB_URL": url or self.registry.url}
        with open(os.devnull, "w") as nothing:
            return launcher.start(CRUMB, arguments, environment, stdout=nothing.fileno(), stderr=nothing.fileno())

    def crumb(self, *arguments: str, code: int = 0) -> str:
        """Run a command to its end, in this process to spare its imports; return what it printed on stdout."""
        return self.both(*arguments, code=code)[0]

    def said(self, *arguments: str, code: int = 1) -> str:
        """Run a command to its end as `crumb` does; return all that it printed."""
        return "".join(self.both(*arguments, code=code))

    def both(self, *arguments: str, code: int) -> tuple[str, str]:
        """Run a command to its end, and return what it printed on stdout and on stderr."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            found = run(list(arguments))
        assert found == code, f"crumb {' '.join(arguments)}: {out.getvalue()}{err.getvalue()}"
        return out.getvalue(), err.getvalue()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.crumb(*arguments, "--json"))


def person(registry: Registry, name: str, *options: str) -> Person:
    home = registry.folder / f"home-{name}"
    home.mkdir()
    return Person(registry, name, home, registry.token(name, *options))

"""A server of several processes: what they count together, who replaces those that die, and how all of them end."""

import json
import os
import re
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from tests.server.edge.test_downloads import FILE, SIZE, stall
from tests.support import launcher
from tests.support.launcher import SERVER, Process
from tests.support.makers import make_checkpoint
from tests.support.processes import Registry, open_registry, person, until

MODELS = "/api/v1/models"


def children(pid: int) -> list[int]:
    """Return the processes that a process has started, in order."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@contextmanager
def only(answering: int, others: Sequence[int]) -> Iterator[None]:
    """Stop all processes but one, so that it answers."""
    stopped = [pid for pid in others if pid != answering]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


def ask(registry: Registry, times: int, token: str | None = None, path: str = MODELS) -> list[int]:
    """Send requests, each on a connection of its own; return their statuses."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return [httpx2.get(registry.url + path, headers=headers, timeout=30).status_code for _ in range(times)]


@contextmanager
def many(folder: Path, count: int, *options: str, **settings: object) -> Iterator[tuple[Registry, Process]]:
    """Serve by several processes."""
    with open_registry(folder / "registry", **settings) as registry:
        yield registry, registry.serve("--processes", str(count), *options)


def events(registry: Registry, name: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in registry.logs().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


@pytest.mark.slow
def test_a_rate_holds_over_all_processes(tmp_path: Path) -> None:
    with many(tmp_path, 3, "--no-worker", rate_token="60/day") as (registry, server):
        token, pids = registry.token("alice"), children(server.pid)
        assert len(pids) == 3
        let_in = []
        for pid in pids:
            with only(pid, pids):
                let_in += ask(registry, 30, token)
        assert let_in == [200] * 60 + [429] * 30


@pytest.mark.slow
def test_downloads_are_counted_over_all_processes_and_those_of_a_killed_one_no_more(tmp_path: Path) -> None:
    with many(tmp_path, 3, "--no-worker", downloads_each=2) as (registry, server), ExitStack() as stack:
        worker = registry.start("worker")
        base = make_checkpoint(tmp_path / "base", shapes={"w": (1500, 1500)})
        person(registry, "alice").crumb("model", "create", "alice/big", "--base", str(base))
        worker.terminate()
        first, second, third = pids = children(server.pid)
        with only(first, pids):
            for _ in range(2):
                stack.enter_context(stall(registry.url)).recv(1)
        with only(second, pids):
            assert ask(registry, 1, path=FILE) == [429]
            assert ask(registry, 1, registry.token("bob"), FILE) == [200]
        os.kill(first, signal.SIGKILL)
        until(lambda: len(children(server.pid)) == 3 and first not in children(server.pid))
        with only(third, children(server.pid)):
            assert ask(registry, 1, path=FILE) == [200]
        (fourth,) = set(children(server.pid)) - set(pids)
        with only(fourth, children(server.pid)):
            assert ask(registry, 1) == [200]
        assert [(line["process"], line["code"]) for line in events(registry, "process.died")] == [("server 0", -9)]


@pytest.mark.slow
def test_metrics_are_sums_that_outlive_a_process(tmp_path: Path) -> None:
    secret = "of-the-operator-for-prometheus"
    with many(tmp_path, 2, "--no-worker", metrics_token=secret) as (registry, server):

        def total() -> float:
            text = httpx2.get(f"{registry.url}/metrics", headers={"Authorization": f"Bearer {secret}"}).text
            lines = re.findall(r'registry_requests_total\{.*route="/api/v1/models".*\} (.*)', text)
            assert len(lines) == 1 and text.count("# TYPE registry_requests_total") == 1
            return float(lines[0])

        first, second = pids = children(server.pid)
        for pid, times in ((first, 5), (second, 7)):
            with only(pid, pids):
                ask(registry, times)
        for pid in pids:
            with only(pid, pids):
                assert total() == 12
        os.kill(first, signal.SIGKILL)
        until(lambda: len(children(server.pid)) == 2 and first not in children(server.pid))
        (third,) = set(children(server.pid)) - {second}
        with only(third, children(server.pid)):
            ask(registry, 1)
            assert total() == 13


@pytest.mark.slow
def test_metrics_have_the_worker_beside_the_processes_and_what_each_takes(tmp_path: Path) -> None:
    secret = "of-the-operator-for-prometheus"
    with many(tmp_path, 2, metrics_token=secret) as (registry, _):
        base = make_checkpoint(tmp_path / "base")
        person(registry, "alice").crumb("model", "create", "alice/m", "--base", str(base))
        text = httpx2.get(f"{registry.url}/metrics", headers={"Authorization": f"Bearer {secret}"}, timeout=30).text
    assert 'registry_job_seconds_count{kind="import",outcome="done"} 1.0' in text
    assert set(re.findall(r'^process_open_fds\{process="(\w+)"\} [1-9]', text, re.MULTILINE)) == {"0", "1", "worker"}


@pytest.mark.slow
def test_sigterm_ends_all_after_the_requests_in_progress(tmp_path: Path) -> None:
    with many(tmp_path, 2) as (registry, server):
        base = make_checkpoint(tmp_path / "base", shapes={"w": (1500, 1500)})
        person(registry, "alice").crumb("model", "create", "alice/big", "--base", str(base))
        pids = children(server.pid)
        assert len(pids) == 3 and len(events(registry, "worker.start")) == len(events(registry, "courier.start")) == 1
        with stall(registry.url) as reading:
            received = len(reading.recv(65536))
            server.terminate()
            until(lambda: "courier.stop" in registry.logs())
            while chunk := reading.recv(65536):
                received += len(chunk)
            assert received > SIZE
        assert server.wait(30) == -signal.SIGTERM
        assert not any(map(lives, pids)) and events(registry, "worker.stop") and not events(registry, "process.died")
        with pytest.raises(ConnectionRefusedError):
            connect(registry)


@pytest.mark.slow
def test_sigterm_ends_worker_and_courier_of_a_single_process_too(tmp_path: Path) -> None:
    with open_registry(tmp_path / "registry") as registry:
        server = registry.serve()
        until(lambda: events(registry, "worker.start"))
        server.terminate()
        assert server.wait(30) == -signal.SIGTERM
        assert events(registry, "worker.stop") and events(registry, "courier.stop")


def connect(registry: Registry) -> None:
    host, port = registry.url.removeprefix("http://").split(":")
    socket.create_connection((host, int(port))).close()


@pytest.mark.slow
def test_nothing_goes_on_once_the_supervisor_was_killed(tmp_path: Path) -> None:
    with many(tmp_path, 2) as (registry, server):
        pids = children(server.pid)
        until(lambda: events(registry, "courier.start"))
        server.kill()
        until(lambda: not any(map(lives, pids)))
        with pytest.raises(ConnectionRefusedError):
            connect(registry)


def run(tmp_path: Path, *arguments: str, **settings: str) -> tuple[int, str]:
    environment = {**os.environ, **{f"REGISTRY_{name.upper()}": value for name, value in settings.items()}}
    done = launcher.run(SERVER, "serve", "--data", str(tmp_path / "data"), *arguments, environment=environment)
    return done.returncode, done.stderr


@pytest.mark.slow
def test_what_keeps_all_processes_from_starting_is_told_once(tmp_path: Path) -> None:
    code, told = run(tmp_path, "--processes", "3", "--port", "0", rate_token="fast")
    assert (code, told.count("is not a rate"), "Traceback" in told) == (1, 1, False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, told = run(tmp_path, "--processes", "3", "--port", str(taken.getsockname()[1]))
        assert (code, told.count("\n"), "in use" in told) == (1, 1, True)


@pytest.mark.parametrize("count", ["0", "1000"])
def test_a_number_of_processes_that_cannot_be_is_refused(tmp_path: Path, count: str) -> None:
    code, told = run(tmp_path, "--processes", count)
    assert code == 2 and "--processes" in told
    assert not (tmp_path / "data").exists()

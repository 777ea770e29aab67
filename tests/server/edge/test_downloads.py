"""Clients that take a file slowly, or never, over real sockets."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.edge.test_serving import served
from tests.support.makers import make_checkpoint
from tests.support.processes import until
from tests.support.world import World, create_model, open_world

FILE = "/alice/big/resolve/main/model.safetensors"
SIZE = 9_000_000  # bytes at least: more than the kernel holds for a client that does not read


@contextmanager
def big_model(folder: Path, **settings: Any) -> Iterator[tuple[World, str]]:
    """Serve a model with a large file; yield the registry and its address."""
    url = f"sqlite:///{folder / 'registry.db'}"
    with open_world(folder / "data", url, part_bytes=2**24, **settings) as world:
        create_model(world, "alice/big", make_checkpoint(folder / "base", shapes={"w": (1500, 1500)}))
        with served(world, header_seconds=15) as (host, port):
            yield world, f"http://{host}:{port}"


def stall(url: str, token: str | None = None, buffer: int = 4096) -> socket.socket:
    """Ask for the file, and read nothing of it; `buffer` bytes of it are taken by this machine."""
    host, port = url.removeprefix("http://").split(":")
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    stalled.settimeout(30)
    stalled.connect((host, int(port)))
    lines = [f"GET {FILE} HTTP/1.1", "Host: x", *([f"Authorization: Bearer {token}"] if token else []), "", ""]
    stalled.sendall("\r\n".join(lines).encode())
    return stalled


def test_clients_that_never_read_are_cut_off_and_others_get_their_files(tmp_path: Path) -> None:
    with big_model(tmp_path, send_seconds=0.5, downloads_at_once=5) as (world, url), ExitStack() as stack:
        gate = world.app.state.context.gate
        stalled = [stack.enter_context(stall(url)) for _ in range(5)]
        until(lambda: gate.places.count() == 5)
        assert httpx2.get(url + FILE).status_code == 429
        until(lambda: gate.places.count() == 0)
        assert len(httpx2.get(url + FILE).content) > SIZE
        for connection in stalled:
            with pytest.raises(ConnectionResetError):
                while connection.recv(65536):
                    pass


def read_for(connection: socket.socket, most: int, pause: float, reading: Callable[[], bool]) -> int:
    """Read at most so many bytes at a time while a condition holds; return how many bytes there were."""
    count = 0
    while reading():
        count += len(connection.recv(most))
        time.sleep(pause)
    return count


def test_a_client_that_trickles_is_cut_off(tmp_path: Path) -> None:
    with big_model(tmp_path, send_seconds=0.5) as (world, url), stall(url) as slow:
        gate = world.app.state.context.gate
        until(lambda: gate.places.count() == 1)
        assert read_for(slow, 1, 0.01, lambda: gate.places.count() == 1) < SIZE


@pytest.mark.slow
def test_a_client_that_is_only_slow_gets_its_file(tmp_path: Path) -> None:
    with big_model(tmp_path, send_seconds=1, body_rate=1000) as (world, url), stall(url, buffer=2**17) as slow:
        until(lambda: world.app.state.context.gate.places.count() == 1)
        end = time.monotonic() + 4
        read_for(slow, 2**16, 0.1, lambda: time.monotonic() < end)
        assert world.app.state.context.gate.places.count() == 1


def test_one_caller_has_a_share_of_the_downloads_and_no_more(tmp_path: Path) -> None:
    with big_model(tmp_path, downloads_each=2) as (world, url), ExitStack() as stack:
        gate, alice, bob = world.app.state.context.gate, world.token("alice"), world.token("bob")
        for token in (alice, alice, None, None):
            stack.enter_context(stall(url, token))
        until(lambda: gate.places.count() == 4)
        for token, status in ((alice, 429), (None, 429), (bob, 206)):
            headers = {"Range": "bytes=0-9", **({"Authorization": f"Bearer {token}"} if token else {})}
            answer = httpx2.get(url + FILE, headers=headers)
            assert answer.status_code == status
            assert status == 206 or ("already" in answer.json()["error"] and answer.headers["retry-after"] == "5")

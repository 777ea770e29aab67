"""Slow, broken and impatient clients, over real sockets."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from registry.server.edge.serving import make_server
from tests.support.world import World, announce, content_digest

DATA = b"x" * 1000


@contextmanager
def served(world: World, header_seconds: float) -> Iterator[tuple[str, int]]:
    listening = threading.Event()
    urls: list[str] = []

    def heard(url: str) -> None:
        urls.append(url)
        listening.set()

    server = make_server(world.app, "127.0.0.1", 0, header_seconds, heard)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert listening.wait(30)
    try:
        yield "127.0.0.1", int(urls[0].rpartition(":")[2])
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def world_settings() -> dict[str, Any]:
    return {"body_seconds": 0.3}


def talk(address: tuple[str, int], raw: bytes, wait: float = 10) -> bytes:
    """Send bytes, then read until the server closes."""
    with socket.create_connection(address, timeout=wait) as connection:
        connection.sendall(raw)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def put_head(world: World, length: int, token: str | None, *more: str) -> bytes:
    session = announce(world.client("alice"), DATA)
    lines = [f"PUT /api/v1/uploads/{session['id']}/parts/0 HTTP/1.1", "Host: x", f"Content-Length: {length}", *more]
    lines += [f"{name}: {value}" for name, value in content_digest(DATA).items()]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_header_that_takes_too_long_ends_the_connection(world: World) -> None:
    with served(world, header_seconds=0.3) as address:
        assert talk(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow:") == b""
        whole = talk(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert whole.startswith(b"HTTP/1.1 200")


@pytest.mark.heavy
def test_a_second_header_on_a_kept_connection_has_the_same_deadline(world: World) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with served(world, header_seconds=0.3) as address:
        began = time.monotonic()
        assert talk(address, request + b"GET /heal").count(b"HTTP/1.1 200") == 1
        assert time.monotonic() < began + 4  # not only by the 5 s that uvicorn keeps an idle connection


@pytest.mark.heavy
def test_a_body_that_stops_coming_is_answered_and_closed(world: World) -> None:
    with served(world, header_seconds=10) as address:
        answer = talk(address, put_head(world, 1000, world.token("alice")) + b"only this")
        assert answer.startswith(b"HTTP/1.1 408")
        assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["type"].endswith("timed-out")


def test_who_may_not_send_hears_so_before_the_body(world: World) -> None:
    """With `Expect: 100-continue` nothing is sent at all; the server must not ask for it."""
    with served(world, header_seconds=10) as address:
        for token, length, status in ((None, 1000, b"401"), ("hf_" + "x" * 40, 1000, b"401")):
            answer = talk(address, put_head(world, length, token, "Expect: 100-continue\r\nConnection: close"))
            assert answer.startswith(b"HTTP/1.1 " + status)
        answer = talk(
            address, put_head(world, 10**12, world.token("alice"), "Expect: 100-continue\r\nConnection: close")
        )
        assert answer.startswith(b"HTTP/1.1 413")
        json_head = (
            b"POST /api/v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 99999999\r\nExpect: 100-continue\r\nConnection: close\r\nAuthorization: Bearer "
        )
        answer = talk(address, json_head + world.token("alice").encode() + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413")
        assert not list(world.store.staging.iterdir())


def test_a_header_that_does_not_end_is_refused_long_before_its_deadline(world: World) -> None:
    with served(world, header_seconds=60) as address:
        answer = talk(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 50_000)
        assert answer.startswith(b"HTTP/1.1 400")


HOST = b"Host: x\r\nConnection: close\r\n"


@pytest.mark.parametrize("fields", [b"X-Long: " + b"a" * 17_000 + b"\r\n", b"X: y\r\n" * 101, b"X: y\n" * 101])
def test_a_header_that_arrives_at_once_has_the_same_limits(calm: World, fields: bytes) -> None:
    with served(calm, header_seconds=60) as address:
        assert talk(address, b"GET /healthz HTTP/1.1\r\n" + HOST + fields + b"\r\n").startswith(b"HTTP/1.1 400")
        few = b"X: y\r\n" * 90
        assert talk(address, b"GET /healthz HTTP/1.1\r\n" + HOST + few + b"\r\n").startswith(b"HTTP/1.1 200")


def test_a_long_body_in_the_segment_of_its_header_is_no_long_header(world: World) -> None:
    raw = json.dumps({"sha256": "0" * 64, "size": 5}).encode() + b" " * 20_000
    head = b"POST /api/v1/uploads HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n" % len(raw)
    head += b"Content-Type: application/json\r\nAuthorization: Bearer " + world.token("alice").encode()
    with served(world, header_seconds=60) as address:
        assert talk(address, head + b"\r\n\r\n" + raw).startswith(b"HTTP/1.1 201")


def test_a_body_with_two_lengths_is_refused_and_nothing_after_it_is_read(calm: World) -> None:
    hidden = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"
    raw = b"POST /api/v1/uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    with served(calm, header_seconds=60) as address:
        answer = talk(address, raw + b"0\r\n\r\n" + hidden)
        assert (answer.count(b"HTTP/1.1"), answer[:12]) == (1, b"HTTP/1.1 400")


CHUNKED = b"Transfer-Encoding: chunked\r\nContent-Type: application/json\r\n"


def test_what_follows_a_body_is_bounded_and_is_no_header(world: World) -> None:
    body = json.dumps({"sha256": "0" * 64, "size": 5}).encode()
    chunks = b"%x\r\n%b\r\n0\r\n" % (len(body), body)
    token = b"Authorization: Bearer " + world.token("alice").encode() + b"\r\n"
    head = b"POST /api/v1/uploads HTTP/1.1\r\n" + HOST + CHUNKED
    with served(world, header_seconds=60) as address:
        assert talk(address, head + token + b"\r\n" + chunks + b"\r\n").startswith(b"HTTP/1.1 201")
        assert talk(address, head + b"\r\n" + chunks + token + b"\r\n").startswith(b"HTTP/1.1 401")
        try:
            answer = talk(address, head + token + b"\r\n" + chunks + b"X: " + b"a" * 600_000)
        except ConnectionError:  # closed while we were sending
            answer = b""
        assert not answer or answer.startswith(b"HTTP/1.1 400")


def test_requests_sent_ahead_are_few(calm: World) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with served(calm, header_seconds=60) as address:
        last = request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        assert talk(address, request * 9 + last).count(b"HTTP/1.1 200") == 10
        assert talk(address, request * 1000).count(b"HTTP/1.1") < 1000


def test_a_client_that_goes_away_in_the_middle_of_a_part_leaves_it_missing(world: World) -> None:
    with served(world, header_seconds=10) as address:
        with socket.create_connection(address) as connection:
            connection.sendall(put_head(world, 1000, world.token("alice")) + b"half of it")
        assert announce(world.client("alice"), DATA)["missing"] == [0]
        assert talk(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )

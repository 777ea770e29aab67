"""Nobody can ask so often, or send so slowly, that others wait."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub.utils import parse_ratelimit_headers
from limits.errors import StorageError

from registry.errors import InvalidRequest
from registry.server.edge import middleware
from registry.server.edge.limits import Rate, address_key, open_storage
from registry.server.edge.serving import make_server
from registry.server.processes.counters import Counters
from registry.server.processes.locks import Lock
from registry.settings import Settings
from tests.support.processes import open_registry
from tests.support.world import World, announce, content_digest, digest, open_world

DATA = b"d" * 3000


@contextmanager
def limited(tmp_path: Path, **settings: Any) -> Iterator[World]:
    with open_world(tmp_path / "data", f"sqlite:///{tmp_path / 'registry.db'}", **settings) as world:
        yield world


@contextmanager
def served(world: World) -> Iterator[tuple[str, int]]:
    """Serve a world on a real socket."""
    urls: list[str] = []
    server = make_server(world.app, "127.0.0.1", 0, 15, urls.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not urls:
        time.sleep(0.01)
    host, port = urls[0].removeprefix("http://").split(":")
    try:
        yield host, int(port)
    finally:
        server.should_exit = True
        thread.join()


def counters(most: int = 1000) -> Counters:
    return Counters(most, Lock())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as the limiter sees it, at the start of a minute."""
    at = [1_800_000_000.0]
    monkeypatch.setattr("registry.server.edge.limits.time.time", lambda: at[0])
    return at


def test_an_address_is_limited_whatever_its_tokens_and_told_when_to_come_back(
    tmp_path: Path, clock: list[float]
) -> None:
    with limited(tmp_path, rate_address="5/minute") as world:
        client = world.client(None)
        tokens = [None, "hf_wrong", world.token("alice"), "hf_alsowrong", world.token("bob")]
        for token in tokens:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            assert client.get("/api/v1/whoami", headers=headers).status_code in (200, 401)
        refused = client.get("/api/v1/whoami", headers={"Authorization": f"Bearer {tokens[2]}"})
        assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
        assert refused.json()["type"] == "urn:breadcrumb:problem:too-many"
        assert refused.headers["x-request-id"] == refused.json()["instance"]
        info = parse_ratelimit_headers(refused.headers)
        assert info is not None
        assert (info.resource_type, info.remaining, info.limit, info.window_seconds) == ("address", 0, 5, 60)
        assert info.reset_in_seconds == int(refused.headers["retry-after"]) == 61
        assert client.get("/healthz").status_code == 429
        clock[0] += 61
        assert client.get("/api/v1/models").status_code == 200


def test_a_token_is_limited_wherever_it_comes_from_and_others_are_not(tmp_path: Path, clock: list[float]) -> None:
    with limited(tmp_path, rate_token="3/minute") as world:
        alice, bob = world.client("alice"), world.client("bob")
        assert [alice.get("/api/v1/whoami").status_code for _ in range(5)] == [200, 200, 200, 429, 429]
        refused = alice.post("/api/v1/uploads", json={"sha256": digest(DATA), "size": 3000})
        info = parse_ratelimit_headers(refused.headers)
        assert refused.status_code == 429
        assert info is not None
        assert (info.resource_type, info.remaining, info.limit) == ("token", 0, 3)
        assert int(refused.headers["retry-after"]) == info.reset_in_seconds
        assert bob.get("/api/v1/whoami").status_code == 200
        assert world.client(None).get("/api/v1/models").status_code == 200
        clock[0] += info.reset_in_seconds
        assert alice.get("/api/v1/whoami").status_code == 200


@pytest.mark.parametrize("which", ["rate_address", "rate_token"])
def test_nothing_of_a_refused_body_is_read(tmp_path: Path, which: str) -> None:
    with limited(tmp_path, **{which: "2/hour"}) as world:
        client = world.client()
        session = announce(client, DATA)
        client.get("/api/v1/whoami")
        read: list[int] = []

        def body() -> Iterator[bytes]:
            for at in range(0, 1000, 100):
                read.append(at)
                yield DATA[at : at + 100]

        asked: list[object] = []
        inner = world.app.middleware_stack

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            async def receiving() -> Any:
                asked.append(scope["path"])
                return await receive()

            await inner(scope, receiving, send)  # type: ignore[misc]

        world.app.middleware_stack = watched
        headers = {**content_digest(DATA[:1000]), "Content-Length": "1000"}
        answer = client.put(f"/api/v1/uploads/{session['id']}/parts/0", content=body(), headers=headers)
        assert answer.status_code == 429
        assert asked == []
        assert not list(world.store.staging.iterdir())


@pytest.mark.parametrize("off", ["", "0"])
def test_no_limit_is_no_limit(off: str) -> None:
    rate = Rate("token", off, counters())
    assert [rate.refuse("x") for _ in range(100)] == [None] * 100


@pytest.mark.parametrize(
    "text", ["fast", "5", "0/minute", "-1/minute", "5/fortnight", "5/minute; rm", "5/minute; 6/hour"]
)
def test_a_rate_that_is_none_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a rate"):
        Rate("token", text, counters())


def test_the_window_slides(clock: list[float]) -> None:
    rate = Rate("token", "60/minute", counters())
    assert [rate.refuse("x") for _ in range(60)] == [None] * 60
    clock[0] += 59
    assert rate.refuse("x") is not None, "a new window is no new start"
    clock[0] += 31  # half of what was asked in the window before has faded
    assert sum(rate.refuse("x") is None for _ in range(60)) in (29, 30)


def test_who_waits_as_told_is_let_in(clock: list[float]) -> None:
    for amount, pause in ((1, 0.0), (3, 7.5), (60, 0.4), (100, 1.0)):
        rate = Rate("token", f"{amount}/minute", counters())
        for _ in range(1000):
            refused = rate.refuse("x")
            clock[0] += pause
            if refused is not None:
                clock[0] += int(refused["Retry-After"])
                assert rate.refuse("x") is None


def test_threads_together_get_no_more_than_one_would(clock: list[float]) -> None:
    rate, let_in = Rate("token", "500/minute", counters()), []

    def ask() -> None:
        for _ in range(200):
            let_in.append(rate.refuse("x") is None)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(let_in) == 500


def test_who_keeps_asking_is_not_forgotten_however_many_addresses_ask(clock: list[float]) -> None:
    storage = counters(most=1000)
    rate, size, let_in = Rate("address", "50/minute", storage), len(storage.memory), 0
    for number in range(20_000):
        rate.refuse(f"2001:db8:{number:x}::/64")
        if number % 20 == 0:
            let_in += rate.refuse("busy") is None
    assert (let_in, len(storage.memory)) == (50, size)


def test_in_a_full_table_the_counter_that_was_idle_longest_makes_room(clock: list[float]) -> None:
    rate = Rate("address", "1/minute", counters(most=8))  # one row
    for name in "abcdefgh":
        assert rate.refuse(name) is None
    assert rate.refuse("a") is not None
    assert rate.refuse("i") is None
    assert [name for name in "acdefghi" if rate.refuse(name) is None] == []
    assert rate.refuse("b") is None


class BrokenStorage(Counters):
    """A storage that does not answer, as a Redis that is down; it counts how often it is asked."""

    asked = 0

    def acquire_sliding_window_entry(self, *_: Any) -> bool:  # type: ignore[override]
        self.asked += 1
        raise StorageError(ConnectionError("Connection refused"))


def test_a_storage_that_fails_refuses_nobody_and_is_left_alone_for_a_while(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = BrokenStorage(1000, Lock())
    with limited(tmp_path) as world:
        rate = Rate("address", "1/minute", storage)
        world.app.state.context = replace(world.app.state.context, token_rate=Rate("token", "1/minute", storage))
        assert [world.client("alice").get("/api/v1/whoami").status_code for _ in range(5)] == [200] * 5
        assert [rate.refuse("x") for _ in range(5)] == [None] * 5
        assert storage.asked == 2, "each rate asks once, and then leaves it alone"
        rate.paused_until = 0.0
        assert rate.refuse("x") is None
        assert storage.asked == 3
    assert capsys.readouterr().err.count("limits.storage_failed") == 3


@pytest.mark.parametrize(
    "url", ["memcached://localhost:11211", "localhost:6379", "", "redis+sentinel://localhost:26379"]
)
def test_a_storage_of_another_kind_is_refused_at_the_start(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidRequest, match="REGISTRY_LIMITS_STORAGE"), limited(tmp_path, limits_storage=url):
        pass


@pytest.mark.parametrize(("url", "package"), [("redis://localhost:6379/0", "redis"), ("valkeys://cache", "valkey")])
def test_a_storage_without_its_package_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, url: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidRequest, match=f"REGISTRY_LIMITS_STORAGE.*pip install {package}"):
        open_storage(url, counters())


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(host: str | None, key: str) -> None:
    assert address_key(host) == key


def test_the_defaults_let_a_busy_client_through(clock: list[float]) -> None:
    """Eight connections with 32 MiB parts at 10 Gbit/s for ten minutes, then a pull of 1,000 files at once."""
    settings = Settings()
    token = Rate("token", settings.rate_token, counters())
    address = Rate("address", settings.rate_address, counters())
    for _ in range(600 * 38):
        clock[0] += 1 / 38
        assert token.refuse("t") is None
        assert address.refuse("a") is None
    for _ in range(1100):
        assert token.refuse("t") is None
        assert address.refuse("a") is None


def test_a_real_server_says_so_to_a_real_client(tmp_path: Path) -> None:
    with open_registry(tmp_path / "registry", rate_address="20/hour") as registry:
        registry.serve("--no-worker")
        with httpx2.Client(base_url=registry.url) as client:
            answers = [client.get("/api/v1/models") for _ in range(22)]
            assert [answer.status_code for answer in answers] == [200] * 20 + [429] * 2
            big = client.post("/api/v1/models", content=b"x" * 500_000, headers={"Content-Type": "application/json"})
            assert big.status_code == 429
            assert client.get("/healthz").status_code == 429


def slow_part(world: World, address: tuple[str, int], *, pause: float, chunk: int, total: int) -> tuple[str, float]:
    """Send part 0 of an upload slowly; return the status line of the answer and the seconds until it came."""
    session = announce(world.client(), DATA)
    started = time.monotonic()
    with socket.create_connection(address) as slow:
        slow.settimeout(30)
        lines = [f"PUT /api/v1/uploads/{session['id']}/parts/0 HTTP/1.1", "Host: x", "Content-Length: 1000"]
        lines += [f"Authorization: Bearer {world.token('alice')}"]
        lines += [f"Content-Digest: {content_digest(DATA[:1000])['Content-Digest']}"]
        slow.sendall("\r\n".join([*lines, "", ""]).encode())
        done = threading.Event()

        def send() -> None:
            for at in range(0, total, chunk):
                try:
                    slow.sendall(DATA[at : at + chunk])
                except OSError:
                    return
                if done.wait(pause):
                    return

        thread = threading.Thread(target=send)
        thread.start()
        answer = slow.recv(65536).decode()
        took = time.monotonic() - started
        answer += "" if "detail" in answer else slow.recv(65536).decode()
        done.set()
        thread.join()
    return answer, took


def test_a_body_that_trickles_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps within the wait for the next bytes, for hours."""
    monkeypatch.setattr(middleware, "BODY_WINDOW", 0.5)
    with limited(tmp_path, body_seconds=5, body_rate=100) as world, served(world) as address:
        answer, took = slow_part(world, address, pause=0.1, chunk=1, total=1000)
        assert answer.split()[1] == "408"
        assert "less than 100 bytes per second" in answer
        assert 0.4 < took < 3


def test_a_burst_buys_no_time_to_trickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_WINDOW", 0.5)
    with limited(tmp_path, part_bytes=3000, body_seconds=5, body_rate=100) as world, served(world) as address:
        session = announce(world.client(), DATA)
        with socket.create_connection(address) as slow:
            slow.settimeout(30)
            lines = [f"PUT /api/v1/uploads/{session['id']}/parts/0 HTTP/1.1", "Host: x", "Content-Length: 3000"]
            lines += [f"Authorization: Bearer {world.token('alice')}"]
            lines += [f"Content-Digest: {content_digest(DATA)['Content-Digest']}"]
            slow.sendall("\r\n".join([*lines, "", ""]).encode() + DATA[:2900])
            slow.setblocking(False)
            started, answer = time.monotonic(), b""
            for at in range(2900, 3000):
                slow.send(DATA[at : at + 1])
                time.sleep(0.1)
                try:
                    answer = slow.recv(65536)
                    break
                except BlockingIOError:
                    pass
            assert answer.split()[1] == b"408"
            assert time.monotonic() - started < 4


@pytest.mark.slow
@pytest.mark.parametrize("rate", [100, 0])
def test_a_body_that_is_only_slow_gets_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    monkeypatch.setattr(middleware, "BODY_WINDOW", 0.3)
    with limited(tmp_path, body_seconds=5, body_rate=rate) as world, served(world) as address:
        chunk, pause = (100, 0.1) if rate else (50, 0.05)
        answer, took = slow_part(world, address, pause=pause, chunk=chunk, total=1000)
        assert answer.split()[1] == "200"
        assert took > 0.5

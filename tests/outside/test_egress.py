"""Egress: the server is no proxy; whatever an address says, only public machines are reached."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from registry.errors import InvalidRequest, Unavailable
from registry.outside import egress
from registry.outside.egress import Egress, check_url, is_public
from tests.support.certificates import certify
from tests.support.receivers import Canary, Receiver, open_canary, open_receiver

NAME = "hooks.example.org"
LOCAL_HOSTS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0.01",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0X7F.0x0.0x0.0x1",
    "127.0.0.1.",
    "127.0.0.0x1",
    "0",
    "0.0.0.0",
    "00000.0.0.0",
    "127%2e0%2e0%2e1",
    "127.0.0.1%00.example.org",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "a.localhost",
    "localhost.localdomain",
    "registry.internal",
    "printer.local",
    "metadata",
    "metadata.google.internal",
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::1]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[::1%25lo]",
    "[fc00::1]",
    "[fec0::1]",
    "[ff02::1]",
    "169.254.169.254",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "１２７.０.０.１",
    "127。0。0。1",
    "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ",
    "ｌocalhost",
]
SCHEMES = [
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "ftp://{name}/",
    "gopher://127.0.0.1:{port}/_POST",
    "dict://127.0.0.1:{port}/",
    "unix:///var/run/docker.sock",
    "data:text/plain,x",
    "javascript:alert(1)",
    "http://{name}:{port}/",
    "//127.0.0.1:{port}/",
    "127.0.0.1:{port}",
    "https:127.0.0.1:{port}",
    "https:///127.0.0.1:{port}/",
    "https://",
    "https://:{port}/",
    "",
]
USERS = [
    "https://user@{name}/",
    "https://user:password@127.0.0.1:{port}/",
    "https://@127.0.0.1:{port}/",
    "https://{name}@127.0.0.1:{port}/",
    "https://{name}:443@127.0.0.1:{port}/",
    "https://{name}#@127.0.0.1:{port}/",
    "https://{name}\\@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}\\@{name}/",
    "https://127.0.0.1:{port}#@{name}/",
    "https://127.0.0.1:{port}?@{name}/",
    "https://127.0.0.1\t:{port}/",
    "https://127.0.0.1 :{port}/",
    "https://127.0.0.1:{port}/\r\nX: y",
    "https://{name}:0/",
    "https://{name}:65536/",
    "https://{name}:-1/",
    "https://{name}:8o/",
    "https://..../",
    "https://-{name}/",
    "https://{name}/#fragment",
    "https://{name}/é",
    "https://" + "a" * 2000,
]


def look_up_nothing(host: str, port: int) -> Sequence[str]:
    raise AssertionError(f"{host} was looked up")


def look_up_as(*addresses: str) -> Callable[[str, int], Sequence[str]]:
    return lambda _host, _port: addresses


@pytest.fixture
def canary() -> Iterator[Canary]:
    with open_canary() as made:
        yield made


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", LOCAL_HOSTS)
def test_a_host_that_is_not_public_is_refused_however_it_is_written(canary: Canary, host: str, scheme: str) -> None:
    url = f"{scheme}://{host}:{canary.port}/"
    with pytest.raises(InvalidRequest):
        check_url(url, private=False)
    with pytest.raises(InvalidRequest):
        Egress(look_up=look_up_nothing).post(url, b"{}", {})
    assert not canary.sang()


@pytest.mark.parametrize("form", SCHEMES + USERS)
def test_what_is_no_plain_https_address_is_refused(canary: Canary, form: str) -> None:
    url = form.replace("{name}", NAME).replace("{port}", str(canary.port))
    with pytest.raises(InvalidRequest):
        check_url(url, private=False)
    with pytest.raises(InvalidRequest):
        Egress(look_up=look_up_as("127.0.0.1")).post(url, b"{}", {})
    assert not canary.sang()


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["0.0.0.0"],
        ["169.254.169.254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["fe80::1%lo"],
        ["93.184.215.14", "127.0.0.1"],
        ["127.0.0.1", "93.184.215.14"],
        ["93.184.215.14", *["93.184.215.15"] * 9, "10.0.0.1"],
    ],
)
def test_a_name_that_stands_for_something_private_is_not_called(canary: Canary, addresses: list[str]) -> None:
    url = f"https://{NAME}:{canary.port}/"
    assert check_url(url, private=False).host == NAME
    with pytest.raises(InvalidRequest, match="not at a public address") as refused:
        Egress(look_up=look_up_as(*addresses)).post(url, b"{}", {})
    assert not any(address in str(refused.value) for address in addresses)  # whoever asks learns nothing of our network
    assert not canary.sang()


def test_the_canary_sings_when_it_should(canary: Canary) -> None:
    canary.listener.settimeout(10)
    caught = threading.Thread(target=lambda: canary.listener.accept()[0].close())
    caught.start()
    with pytest.raises(Unavailable):
        Egress(private=True).post(f"http://localhost:{canary.port}/", b"{}", {})
    caught.join()
    socket.create_connection(("127.0.0.1", canary.port)).close()
    canary.listener.setblocking(False)
    assert canary.sang()


def test_a_second_answer_of_the_resolver_is_never_asked_for(
    receiver: Receiver, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the first answer is checked, and the connection goes to that answer."""
    answers, asked = [["127.0.0.1"], ["0.0.0.0"]], []
    resolved: list[Any] = []
    real = socket.getaddrinfo

    def spy(host: Any, *rest: Any, **named: Any) -> Any:
        resolved.append(host)
        return real(host, *rest, **named)

    def look_up(host: str, port: int) -> Sequence[str]:
        asked.append((host, port))
        return answers.pop(0)

    monkeypatch.setattr(socket, "getaddrinfo", spy)
    reply = Egress(private=True, look_up=look_up).post(f"http://{NAME}:{receiver.port}/a?b=c%20d", b"{}", {})
    assert (reply.status, asked) == (204, [(NAME, receiver.port)])
    assert {str(host) for host in resolved} <= {"127.0.0.1"}
    (request,) = receiver.received
    assert (request.path, request.headers["Host"]) == ("/a?b=c%20d", f"{NAME}:{receiver.port}")


def test_the_environment_names_no_proxy(receiver: Receiver, canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
        monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{canary.port}")
    assert Egress(private=True).post(receiver.url, b"{}", {}).status == 204
    assert not canary.sang()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_an_answer_and_not_followed(receiver: Receiver, canary: Canary, status: int) -> None:
    receiver.answer = lambda _: (status, {"Location": f"http://127.0.0.1:{canary.port}/"}, b"over there")
    assert Egress(private=True).post(receiver.url, b"{}", {}) == egress.Reply(status, "over there")
    assert not canary.sang()


def test_an_address_that_takes_no_connection_leaves_the_next(receiver: Receiver) -> None:
    some = look_up_as("127.0.0.2", "127.0.0.1", "127.0.0.3")  # nobody listens at the first and the last
    assert Egress(private=True, look_up=some).post(f"http://{NAME}:{receiver.port}/", b"{}", {}).status == 204
    neither = look_up_as("127.0.0.2", "127.0.0.3")
    with pytest.raises(Unavailable, match="No connection"):
        Egress(private=True, look_up=neither).post(f"http://{NAME}:{receiver.port}/", b"{}", {})


@pytest.mark.parametrize("found", [[], OSError("no such name"), UnicodeError("label too long")])
def test_a_name_without_an_address_is_unavailable(found: Any) -> None:
    def look_up(_host: str, _port: int) -> Sequence[str]:
        if isinstance(found, Exception):
            raise found
        return list(found)

    with pytest.raises(Unavailable, match=NAME):
        Egress(look_up=look_up).post(f"https://{NAME}/", b"{}", {})


@pytest.mark.parametrize("first", [b"", b"H", b"HTTP/1.1 200 OK\r\nX: "])
def test_a_receiver_that_never_ends_its_header_is_cut_off(receiver: Receiver, first: bytes) -> None:
    """One byte now and then would keep a client's own timeout from expiring."""
    over = threading.Event()

    def drip(connection: socket.socket) -> None:
        try:
            connection.sendall(first)
            while not over.wait(0.05):
                if first:
                    connection.sendall(b"x")
        except OSError:
            pass

    receiver.raw = drip
    try:
        start = time.monotonic()
        with pytest.raises(Unavailable, match=r"within 0\.5 seconds"):
            Egress(private=True, seconds=0.5).post(receiver.url, b"{}", {})
        assert time.monotonic() - start < 10
    finally:
        over.set()


def test_an_answer_without_an_end_is_read_no_further_than_its_limit(receiver: Receiver) -> None:
    sent, gone = [0], threading.Event()

    def flood(connection: socket.socket) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(b"x" * 65536)
                sent[0] += 65536
        except OSError:
            gone.set()

    receiver.raw = flood
    assert Egress(private=True).post(receiver.url, b"{}", {}) == egress.Reply(200, "x" * 1000)
    assert gone.wait(10)
    assert sent[0] < 32 * 2**20  # what fits into the system's buffers


def test_what_was_said_before_the_answer_broke_off_counts(receiver: Receiver) -> None:
    receiver.answer = lambda _: (200, {"Content-Length": "100"}, b"too little")
    assert Egress(private=True).post(receiver.url, b"{}", {}).status == 200


def test_an_answer_is_kept_without_what_steers_a_terminal(receiver: Receiver) -> None:
    receiver.answer = lambda _: (200, {}, "a\x1b[31m\x00b\u202ec\r\nd\x7fé".encode() + b"\xff")
    assert Egress(private=True).post(receiver.url, b"{}", {}).text == "a[31mbc\ndé\ufffd"


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "::ffff:93.184.215.14", "2001:4860:4860::8888"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("url", "netloc", "path"),
    [
        ("https://Hooks.Example.org", NAME, "/"),
        ("https://hooks.example.org.:443/a/@b?c=@d", NAME, "/a/@b?c=@d"),
        ("https://hooks.example.org:8443/", f"{NAME}:8443", "/"),
        ("https://93.184.215.14/", "93.184.215.14", "/"),
        ("https://[2606:4700:4700::1111]:8443/", "[2606:4700:4700::1111]:8443", "/"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", "/"),
    ],
)
def test_sound_addresses_are_taken_apart(url: str, netloc: str, path: str) -> None:
    target = check_url(url, private=False)
    assert (target.netloc, target.path) == (netloc, path)


def test_the_certificate_is_checked_for_the_name_though_an_address_is_connected_to(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path, NAME)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    names: list[str | None] = []
    serving.sni_callback = lambda _socket, name, _context: names.append(name)  # type: ignore[assignment]
    believing = ssl.create_default_context(cafile=str(certificate))
    with open_receiver(serving) as receiver:
        to_here = look_up_as("127.0.0.1")
        sender = Egress(private=True, look_up=to_here, tls=believing)
        assert sender.post(f"https://{NAME}:{receiver.port}/", b"{}", {}).status == 204
        assert names == [NAME]
        with pytest.raises(Unavailable, match=r"(?i)certificate"):
            sender.post(f"https://other.example.org:{receiver.port}/", b"{}", {})
        with pytest.raises(Unavailable, match=r"(?i)certificate"):
            Egress(private=True, look_up=to_here).post(f"https://{NAME}:{receiver.port}/", b"{}", {})
        assert len(receiver.received) == 1


def test_a_resolver_that_says_nothing_holds_up_nobody_beyond_the_deadline() -> None:
    asked, answered = threading.Event(), threading.Event()

    def look_up(_host: str, _port: int) -> Sequence[str]:
        asked.set()
        answered.wait(60)
        return ["127.0.0.1"]

    try:
        with pytest.raises(Unavailable, match=r"was not resolved within 0\.05 seconds"):
            Egress(private=True, look_up=look_up, seconds=0.05).post(f"http://{NAME}/", b"{}", {})
        assert asked.is_set()
    finally:
        answered.set()

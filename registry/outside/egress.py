"""Egress: a request to a stranger's address, which cannot be made to reach what only this machine can reach.

    url ── parsed, cheap checks ──> name resolved here ── every address public? ──> connected to that very address
           check_url                resolve               is_public                 Host, SNI and certificate by name

The name is not resolved a second time, which could give another address; proxies of the environment are ignored,
redirects are not followed, and the whole call has a deadline, however slowly names are resolved and answers arrive.
"""

import contextlib
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import httpx2

from registry.errors import InvalidRequest, Unavailable
from registry.outside.tls import public_authorities

CALL_SECONDS = 10.0
MOST_READ = 64 * 2**10  # bytes of an answer
MOST_KEPT = 1000  # characters of an answer
MOST_ADDRESSES = 4
LABELS = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
LOCAL_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa")
UNICAST = ipaddress.IPv6Network("2000::/3")
NEVER_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments
        "192.88.99.0/24",  # 6to4 relays
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address in disguise
        "3fff::/20",  # documentation
    )
]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True)
class Target:
    """The parts of an address that may be called."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """Host and port as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"https": 443, "http": 80}[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True)
class Reply:
    """An answer: its status, and the beginning of its text."""

    status: int
    text: str


def check_url(url: str, *, private: bool) -> Target:
    """Split an address into its parts, and refuse what can be refused without the network.

    Args:
        url: The address, as a user gave it.
        private: Whether this registry may call its own network, and use plain http.

    Raises:
        InvalidRequest: The address may not be called; the message says why.
    """
    if not re.fullmatch(r"[!-~]{1,2000}", url) or set(url) & set('\\"<>^`{|}'):
        raise InvalidRequest("An address has 1 to 2,000 ASCII characters; percent-encode all others.", field="url")
    try:
        parsed = httpx2.URL(url)
        host, port = parsed.raw_host.decode("ascii").lower().removesuffix("."), parsed.port
    except (httpx2.InvalidURL, ValueError) as why:
        raise InvalidRequest(f"This is not a valid address: {why}.", field="url") from why
    if parsed.scheme not in (("https", "http") if private else ("https",)):
        raise InvalidRequest("An address must start with https://.", field="url")
    if "@" in re.split(r"[/?#]", url.partition("://")[2])[0] or parsed.fragment:
        raise InvalidRequest("An address must not have a user, password or fragment.", field="url")
    port = {"https": 443, "http": 80}[parsed.scheme] if port is None else port
    if not 1 <= port <= 65535:
        raise InvalidRequest("The port of an address must be 1 to 65535.", field="url")
    check_host(host, private=private)
    return Target(parsed.scheme, host, port, parsed.raw_path.decode("ascii"))


def check_host(host: str, *, private: bool) -> None:
    """Refuse a host that is not a plain name or address, or whose name alone shows that it is not public.

    Raises:
        InvalidRequest: The host may not be called; the message says why.
    """
    literal = parse_address(host)
    if literal is not None:
        if not private and not is_public(literal):
            raise InvalidRequest("This registry calls only public addresses.", field="url")
        return
    if not LABELS.fullmatch(host) or len(host) > 253:
        raise InvalidRequest("The host of an address must be a name like hooks.example.org.", field="url")
    if NUMBER.fullmatch(host.rpartition(".")[2]):  # some resolvers read this as an IPv4 address
        raise InvalidRequest("An IPv4 address must be four decimal numbers.", field="url")
    local = "." not in host or any(host == name or host.endswith(f".{name}") for name in LOCAL_NAMES)
    if local and not private:
        raise InvalidRequest("This registry calls only public addresses.", field="url")


def parse_address(host: str) -> Address | None:
    """Return the IP address that a host is, or None for a name."""
    if "%" in host:  # a zone: an address on one of this machine's own links
        return None
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None


def is_public(address: Address) -> bool:
    """Say whether an address is public, and not a private one in another notation."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in UNICAST:  # excludes loopback, NAT64, link-local, unique local and multicast
            return False
    elif address.is_multicast or address.is_reserved:
        return False
    return address.is_global and not any(
        address in network for network in NEVER_PUBLIC if network.version == address.version
    )


def look_up(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a name, as the system resolves it."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return [str(sockaddr[0]) for *_, sockaddr in infos]


def in_time(look_up: Resolve, target: Target, seconds: float) -> Sequence[str]:
    """Return the addresses of a target's name, looked up in a thread, since the system's resolver has no deadline.

    A thread that is late is left to end by itself, which takes as long as the resolver tries.

    Raises:
        Unavailable: They are not there in time.
        OSError, UnicodeError: The name has none.
    """
    future: Future[Sequence[str]] = Future()

    def work() -> None:
        try:
            future.set_result(look_up(target.host, target.port))
        except BaseException as why:
            future.set_exception(why)

    threading.Thread(target=work, name="resolver", daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        raise Unavailable(f"The name {target.host} was not resolved within {seconds:g} seconds.") from None


class Egress:
    """Sends requests out of the registry.

    Args:
        private: Whether it may call addresses that are not public, and use plain http.
        look_up: Resolves a name.
        tls: Which certificates to trust; the usual authorities if None.
        seconds: Longest time from looking a name up to the end of an answer.
    """

    def __init__(
        self,
        *,
        private: bool = False,
        look_up: Resolve = look_up,
        tls: ssl.SSLContext | None = None,
        seconds: float = CALL_SECONDS,
    ) -> None:
        self.private, self.look_up, self.seconds = private, look_up, seconds
        self.tls = tls or public_authorities()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """POST a body and return the answer, whatever its status, with the beginning of its text.

        Raises:
            InvalidRequest: The address may not be called.
            Unavailable: Nobody answers there, or not in time.
        """
        status, raw = self.call("POST", url, body, headers, MOST_READ)
        return Reply(status, plain(raw.decode("utf-8", "replace")))

    def fetch(self, method: str, url: str, body: bytes, headers: Mapping[str, str], most: int) -> tuple[int, bytes]:
        """Send a request and return the status and the body of its answer.

        Args:
            method: `GET` or `POST`.
            url: The address.
            body: The body of the request.
            headers: Its headers.
            most: Most bytes of the answer.

        Raises:
            InvalidRequest: The address may not be called.
            Unavailable: Nobody answers there, or not in time, or with more bytes than that.
        """
        status, raw = self.call(method, url, body, headers, most + 1)
        if len(raw) > most:
            raise Unavailable(f"{check_url(url, private=self.private).netloc} answers with more than {most} bytes.")
        return status, raw

    def call(self, method: str, url: str, body: bytes, headers: Mapping[str, str], most: int) -> tuple[int, bytes]:
        """Send a request to the first address of a name that accepts it; return the status and `most` bytes at most.

        Raises:
            InvalidRequest: The address may not be called.
            Unavailable: Nobody answers there, or not in time.
        """
        target, until = check_url(url, private=self.private), time.monotonic() + self.seconds
        addresses = self.resolve(target)
        for address in addresses[:-1]:
            with contextlib.suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return self.send(method, target, address, body, headers, until, most)
        try:
            return self.send(method, target, addresses[-1], body, headers, until, most)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as why:
            raise Unavailable(f"No connection to {target.netloc}: {plain(str(why)) or 'not in time'}.") from why

    def resolve(self, target: Target) -> list[Address]:
        """Return the addresses of a target, each of which may be called.

        Raises:
            InvalidRequest: An address of the name is not public.
            Unavailable: The name has no address, or not in time.
        """
        literal = parse_address(target.host)
        try:
            texts = [str(literal)] if literal else in_time(self.look_up, target, self.seconds)
        except Unavailable:
            raise
        except (OSError, UnicodeError) as why:
            raise Unavailable(f"The name {target.host} has no address at the moment.") from why
        addresses = [ipaddress.ip_address(text.partition("%")[0]) for text in dict.fromkeys(texts)]
        if not addresses:
            raise Unavailable(f"The name {target.host} has no address at the moment.")
        if not self.private and not all(is_public(address) for address in addresses):
            raise InvalidRequest(f"{target.host} is not at a public address; nothing was sent there.", field="url")
        return addresses[:MOST_ADDRESSES]

    def send(
        self,
        method: str,
        target: Target,
        address: Address,
        body: bytes,
        headers: Mapping[str, str],
        until: float,
        most: int,
    ) -> tuple[int, bytes]:
        """Send a request to one address, which was checked.

        Raises:
            httpx2.ConnectError, httpx2.ConnectTimeout: Nobody accepts the connection; another address may.
            Unavailable: The call broke off, or took too long.
        """
        left = max(0.001, until - time.monotonic())
        url = httpx2.URL(
            scheme=target.scheme, host=str(address), port=target.port, raw_path=target.path.encode("ascii")
        )
        sent = {**headers, "Host": target.netloc, "Accept-Encoding": "identity", "Connection": "close"}
        with cut_off(left) as trace, self.client(left) as client:
            request = client.build_request(
                method,
                url,
                content=body or None,
                headers=sent,
                extensions={"sni_hostname": target.host, "trace": trace},
            )
            try:
                response = client.send(request, stream=True, follow_redirects=False)
                try:
                    return response.status_code, read_some(response, most)
                finally:
                    response.close()
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                raise
            except (httpx2.HTTPError, httpx2.StreamError, OSError) as why:
                if time.monotonic() >= until or isinstance(why, httpx2.TimeoutException):
                    raise Unavailable(f"{target.netloc} did not answer within {self.seconds:g} seconds.") from why
                reason = plain(str(why)) or type(why).__name__
                raise Unavailable(f"The connection to {target.netloc} broke off: {reason}.") from why

    def client(self, seconds: float) -> httpx2.Client:
        """Return a client for one call: no proxies, no cookies, no kept connections."""
        return httpx2.Client(trust_env=False, verify=self.tls, timeout=seconds, follow_redirects=False)


@contextlib.contextmanager
def cut_off(seconds: float) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """Yield a trace extension that learns the socket of a call, and shut the socket down after a time.

    The client's own timeouts start again with every byte.
    """
    sockets: list[socket.socket] = []
    over = threading.Event()

    def cut() -> None:
        over.set()
        for kept in sockets:
            with contextlib.suppress(OSError):
                kept.shutdown(socket.SHUT_RDWR)

    def trace(name: str, info: Mapping[str, Any]) -> None:
        if name == "connection.connect_tcp.complete":
            # A duplicate, since TLS takes over the original; shutting down either ends the connection.
            sockets.append(info["return_value"].get_extra_info("socket").dup())
            if over.is_set():
                cut()

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield trace
    finally:
        timer.cancel()
        timer.join()
        for kept in sockets:
            kept.close()


def read_some(response: httpx2.Response, most: int) -> bytes:
    """Return at most so many bytes of an answer, or fewer if it breaks off; the rest is not read."""
    raw = bytearray()
    with contextlib.suppress(httpx2.HTTPError):
        for chunk in response.iter_raw():
            raw += chunk
            if len(raw) >= most:
                break
    return bytes(raw[:most])


def plain(text: str) -> str:
    """Return the beginning of a text without characters that control a terminal or a page."""
    return "".join(c for c in text if c.isprintable() or c == "\n")[:MOST_KEPT]

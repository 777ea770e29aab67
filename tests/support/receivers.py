"""What webhooks talk to in tests: a real HTTP server that remembers, and a listener that nobody may reach."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.servers import serving

Answer = tuple[int, Mapping[str, str], bytes]


@dataclass
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver:
    """Where requests arrive; `answer` says what to say to each, and may wait."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    answer: Callable[[Received], Answer] = lambda _: (204, {}, b"")
    raw: Callable[[socket.socket], None] | None = None  # says it itself, byte by byte

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ids(self) -> list[str]:
        return [request.headers["webhook-id"] for request in self.received]

    def events(self) -> list[str]:
        return [request.headers["X-Webhook-Event"] for request in self.received]


@contextmanager
def open_receiver(tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    made = Receiver()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Received(self.path, dict(self.headers), body)
            with lock:
                made.received.append(request)
            if made.raw is not None:
                made.raw(self.connection)
                return
            status, headers, content = made.answer(request)
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # whoever asked has gone

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Handler, tls) as made.url:
        yield made


@dataclass
class Canary:
    """A listener on every local address that should hear nobody."""

    listener: socket.socket

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def sang(self) -> bool:
        """Say whether somebody connected: the kernel has done so before anybody accepts."""
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True


@contextmanager
def open_canary() -> Iterator[Canary]:
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    with socket.create_server(("::" if dual else "", 0), family=family, dualstack_ipv6=dual) as listener:
        listener.setblocking(False)
        yield Canary(listener)

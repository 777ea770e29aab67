"""A real HTTP server in a thread that answers as a test says: cut connections, wrong bytes, 429."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    handler: BaseHTTPRequestHandler

    def answer(self, status: int, body: bytes | dict[str, Any] = b"", cut: int | None = None, **headers: str) -> None:
        """Answer; with `cut` only so many bytes of the body follow, and the connection breaks."""
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        self.handler.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), **named}.items():
            self.handler.send_header(name, value)
        self.handler.end_headers()
        if self.method != "HEAD":
            self.handler.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.hang_up()

    def problem(self, status: int, slug: str, detail: str, **headers: str) -> None:
        document = {"type": f"urn:breadcrumb:problem:{slug}", "title": slug, "status": status, "detail": detail}
        self.answer(status, {**document, "instance": "req1", "field": None}, **headers)

    def hang_up(self) -> None:
        self.handler.wfile.flush()
        self.handler.connection.shutdown(socket.SHUT_RDWR)
        self.handler.close_connection = True


@dataclass
class Scripted:
    url: str = ""
    seen: list[Request] = field(default_factory=list)


@contextmanager
def serving(answer: Callable[[Request], None]) -> Iterator[Scripted]:
    """Serve on loopback; every request goes to `answer` and is kept in `seen`."""
    scripted = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, body, self)
            scripted.seen.append(request)
            answer(request)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # connections that a test cuts

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    scripted.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield scripted
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

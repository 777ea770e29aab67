"""The app under uvicorn, with deadlines for slow clients, strict headers, and a worker beside it."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from registry.settings import Settings

log = structlog.get_logger()
HEADER_BYTES = 16 * 2**10
HEADERS = 100  # fields of a header
UNSENT_BYTES = 2**17  # that the kernel takes for a client beyond those on their way to it
BACKLOG = 2048  # connections that wait to be accepted, as uvicorn has it
AHEAD = 16  # requests of a connection that wait for the one before


def deadline_protocol(header_seconds: float, send_seconds: float, send_rate: int) -> type[HttpToolsProtocol]:
    """Return an HTTP protocol that closes a connection whose client sends its header, or takes the answer, too slowly.

    uvicorn itself waits for ever, and a thousand such connections cost an attacker nothing. Nor does it limit a header,
    the trailers of a body, or the requests that a client sends ahead: each of them would be kept in memory. A body with
    two lengths is refused by the parser, llhttp (RFC 9112 section 6.3).

    Args:
        header_seconds: The longest wait for a whole header.
        send_seconds: The longest wait for a client to take bytes that are ready.
        send_rate: The fewest bytes for each of those seconds.
    """

    class DeadlineProtocol(HttpToolsProtocol):
        waiting: asyncio.TimerHandle | None = None
        sending: asyncio.TimerHandle | None = None
        unsent = 0
        fruitless = 0  # bytes received since a header was complete, or a piece of a body
        fruitful = False  # whether some of the bytes at hand are such
        in_header = False

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.await_header()
            transport.set_write_buffer_limits(high=0)  # `pause_writing` is called whenever bytes have to wait
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                connection: socket.socket = transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

        def data_received(self, data: bytes) -> None:
            self.fruitful = False
            super().data_received(data)
            self.fruitless = 0 if self.fruitful else self.fruitless + len(data)
            if self.fruitless > HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("The header is too long.")
            if self.cycle is None or self.cycle.response_complete:
                self.await_header()  # whatever the bytes are

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self.in_header = True
            self.await_header()

        def on_header(self, name: bytes, value: bytes) -> None:
            if self.in_header:  # not of a trailer, which must not pass for a header (RFC 9110 section 6.5.1)
                super().on_header(name, value)

        def on_headers_complete(self) -> None:
            if len(self.headers) > HEADERS:
                raise ValueError("the header has too many fields")
            if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > HEADER_BYTES:
                raise ValueError("the header is too long")
            if len(self.pipeline) >= AHEAD:
                raise ValueError("too many requests were sent ahead")
            self.fruitful, self.in_header = True, False
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self.fruitful = True
            super().on_body(body)

        def on_message_complete(self) -> None:
            self.fruitful = True
            super().on_message_complete()

        def await_header(self) -> None:
            if self.waiting is None:
                self.waiting = self.loop.call_later(header_seconds, self.shutdown)  # after an answer in progress

        def send_400_response(self, msg: str) -> None:
            answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
            if answering or self.pipeline:  # it would stand in the middle of another answer
                self.transport.close()
            else:
                super().send_400_response(msg)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.watch_client()

        def watch_client(self) -> None:
            self.unsent = self.transport.get_write_buffer_size()
            self.sending = self.loop.call_later(send_seconds, self.check_client)

        def check_client(self) -> None:
            taken = self.unsent - self.transport.get_write_buffer_size()
            if taken >= max(1, send_rate * send_seconds):
                self.watch_client()
                return
            log.info("client.stalled", path=self.scope and self.scope["path"], taken=taken, seconds=send_seconds)
            reset = struct.pack("ii", 1, 0)  # or the kernel would go on trying to send what it has
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self.transport.abort()

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.sending is not None:
                self.sending.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self.waiting, self.sending):
                if timer is not None:
                    timer.cancel()
            super().connection_lost(exc)

    return DeadlineProtocol


def listen(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen at a host and a port, as uvicorn does by itself, for several processes.

    Raises:
        OSError: The host has no address, or one cannot be listened on.
    """
    kind, flags = socket.SOCK_STREAM, socket.AI_PASSIVE
    found = dict.fromkeys(
        (family, where) for family, *_, where in socket.getaddrinfo(host, port, type=kind, flags=flags)
    )
    return [socket.create_server(where[:2], family=family, backlog=BACKLOG) for family, where in found]


def address_of(bound: socket.socket) -> str:
    """Return the address of a server that listens on a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class Server(uvicorn.Server):
    """A uvicorn server that reports the address it listens on, and when it is about to end."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[str], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self.listening, self.ending = listening, ending

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then report the address."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)  # asyncio has made it as short as the number that it accepts at a time
        self.listening(address_of(self.servers[0].sockets[0]))

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """End the streams, which would last for minutes, then wait for the requests in progress."""
        self.ending()
        await super().shutdown(sockets)  # type: ignore[arg-type]


def make_server(
    app: FastAPI, host: str, port: int, header_seconds: float, listening: Callable[[str], None], alone: bool = True
) -> Server:
    """Return a server for an app; `run()` it, and set `should_exit` to end it.

    Args:
        app: The app.
        host: Where it listens, unless it is run with sockets.
        port: Likewise.
        header_seconds: The longest wait for a whole header.
        listening: Called with the address once it listens.
        alone: Whether no other process accepts connections on its sockets. If others do, it accepts one at a time, or
            the first to wake would take all that have come together.
    """
    settings: Settings = app.state.context.settings
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=deadline_protocol(header_seconds, settings.send_seconds, settings.body_rate),
        ws="none",
        lifespan="off",
        backlog=BACKLOG if alone else 1,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
    )
    return Server(config, listening, app.state.streams.end)


def run_beside(
    worker: Callable[[], None], stop: Callable[[], object], server: Server, sockets: list[socket.socket]
) -> None:
    """Run the server with a worker in a thread, and at the end stop the worker and wait for it."""
    thread = threading.Thread(target=worker, name="worker")
    thread.start()
    try:
        server.run(sockets)
    finally:
        stop()
        thread.join()

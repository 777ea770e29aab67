"""The app under uvicorn, with deadlines for slow clients, strict headers, and a worker beside it."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable

import h11
import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from registry.settings import Settings

log = structlog.get_logger()
HEADER_BYTES = 16 * 2**10
HEADERS = 100  # fields of a header
UNSENT_BYTES = 2**17  # that the kernel takes for a client beyond those on their way to it
END_OF_HEADER = (b"\n\r\n", b"\n\n")


class StrictConnection(h11.Connection):
    """A parser of HTTP/1.1 that refuses long headers however they arrive, and bodies with two lengths."""

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Return the next event.

        Raises:
            RemoteProtocolError: The client broke the protocol, or one of our limits; uvicorn answers 400 and closes.
        """
        if self.their_state is h11.IDLE:
            received = self.trailing_data[0]
            ends = [at for mark in END_OF_HEADER if (at := received.find(mark)) >= 0]
            if min(ends, default=len(received)) > HEADER_BYTES:
                raise h11.RemoteProtocolError("the header is too long")
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = [name for name, _ in event.headers]
            if len(names) > HEADERS:
                raise h11.RemoteProtocolError("the header has too many fields")
            if b"content-length" in names and b"transfer-encoding" in names:  # RFC 9112 section 6.3
                raise h11.RemoteProtocolError("the body has two lengths")
        return event


def deadline_protocol(header_seconds: float, send_seconds: float, send_rate: int) -> type[H11Protocol]:
    """Return an HTTP protocol that closes a connection whose client sends its header, or takes the answer, too slowly.

    uvicorn itself waits for ever, and a thousand such connections cost an attacker nothing.

    Args:
        header_seconds: The longest wait for a whole header.
        send_seconds: The longest wait for a client to take bytes that are ready.
        send_rate: The fewest bytes for each of those seconds.
    """

    class DeadlineProtocol(H11Protocol):
        waiting: asyncio.TimerHandle | None = None
        sending: asyncio.TimerHandle | None = None
        unsent = 0

        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[arg-type]
            self.conn = StrictConnection(h11.SERVER, HEADER_BYTES)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.waiting = self.loop.call_later(header_seconds, transport.close)
            transport.set_write_buffer_limits(high=0)  # `pause_writing` is called whenever bytes have to wait
            if hasattr(socket, "TCP_NOTSENT_LOWAT"):
                connection: socket.socket = transport.get_extra_info("socket")
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            busy = self.cycle is not None and not self.cycle.response_complete
            if self.waiting is not None and (busy or self.cycle is not before):
                self.waiting.cancel()
                self.waiting = None
            if self.waiting is None and not busy:  # the first bytes of a next request on a kept connection
                self.waiting = self.loop.call_later(header_seconds, self.transport.close)

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


class Server(uvicorn.Server):
    """A uvicorn server that reports the address it listens on, and when it is about to end."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[str], None], ending: Callable[[], None]) -> None:
        super().__init__(config)
        self.listening, self.ending = listening, ending

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """Bind, then report the address."""
        await super().startup(sockets)  # type: ignore[arg-type]
        for bound in (bound for server in self.servers for bound in server.sockets):
            host, port = bound.getsockname()[:2]
            self.listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            break

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """End the streams, which would last for minutes, then wait for the requests in progress."""
        self.ending()
        await super().shutdown(sockets)  # type: ignore[arg-type]


def make_server(app: FastAPI, host: str, port: int, header_seconds: float, listening: Callable[[str], None]) -> Server:
    """Return a server for an app; `run()` it, and set `should_exit` to end it."""
    settings: Settings = app.state.context.settings
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=deadline_protocol(header_seconds, settings.send_seconds, settings.body_rate),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
        proxy_headers=bool(settings.proxies),
        forwarded_allow_ips=settings.proxies,
    )
    return Server(config, listening, app.state.streams.end)


def run_beside(worker: Callable[[], None], stop: Callable[[], object], server: Server) -> None:
    """Run the server with a worker in a thread, and at the end stop the worker and wait for it."""
    thread = threading.Thread(target=worker, name="worker")
    thread.start()
    try:
        server.run()
    finally:
        stop()
        thread.join()

"""The app under uvicorn, with deadlines for slow clients and a worker beside it."""

import asyncio
import threading
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_BYTES = 16 * 2**10


def deadline_protocol(seconds: float) -> type[H11Protocol]:
    """Return an HTTP protocol that closes a connection whose request header takes longer than `seconds`.

    uvicorn itself waits for ever, and a thousand such connections cost an attacker nothing.
    """

    class DeadlineProtocol(H11Protocol):
        waiting: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.waiting = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            busy = self.cycle is not None and not self.cycle.response_complete
            if self.waiting is not None and (busy or self.cycle is not before):
                self.waiting.cancel()
                self.waiting = None
            if self.waiting is None and not busy:  # the first bytes of a next request on a kept connection
                self.waiting = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
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
        for bound in (socket for server in self.servers for socket in server.sockets):
            host, port = bound.getsockname()[:2]
            self.listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            break

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """End the streams, which would last for minutes, then wait for the requests in progress."""
        self.ending()
        await super().shutdown(sockets)  # type: ignore[arg-type]


def make_server(app: FastAPI, host: str, port: int, header_seconds: float, listening: Callable[[str], None]) -> Server:
    """Return a server for an app; `run()` it, and set `should_exit` to end it."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=deadline_protocol(header_seconds),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=10,
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

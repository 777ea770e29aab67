"""Requests to an app in this process, each handed to the event loop once."""

import sys
from importlib.util import find_spec
from typing import Any

import httpx2
from anyio.from_thread import BlockingPortal
from fastapi import FastAPI
from starlette.testclient import TestClient

# httpx2's transport tries to import it for each request, and looks through all folders where it is not installed.
if find_spec("sniffio") is None:
    sys.modules["sniffio"] = None  # type: ignore[assignment]  # as Python itself notes that there is none


class Caller(TestClient):
    """A client of an app, which answers 500 where it fails; its requests share one event loop.

    Starlette's own client goes to the loop and back for each message of a request, about a millisecond each time. With
    `portal` set to None it does that again, in a loop of its own.
    """

    def __init__(self, app: FastAPI, portal: BlockingPortal, headers: dict[str, str], **how: Any) -> None:
        super().__init__(app, headers=headers, raise_server_exceptions=False, **how)
        self.portal = portal
        self._transport = _OneCall(self, self._transport)


class _OneCall(httpx2.BaseTransport):
    def __init__(self, caller: Caller, own: httpx2.BaseTransport) -> None:
        self.caller, self.own = caller, own
        self.asgi = httpx2.ASGITransport(caller.app, raise_app_exceptions=False, client=("testclient", 50000))

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        if self.caller.portal is None:
            return self.own.handle_request(request)
        request.read()
        return self.caller.portal.call(self.answer, request)

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        answer = await self.asgi.handle_async_request(request)
        content = b"".join([part async for part in answer.stream])
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=httpx2.ByteStream(content))

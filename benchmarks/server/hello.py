"""Bare apps: an answer in a line, and a file as Starlette sends it; `uvicorn benchmarks.server.hello:app`."""

import os

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"13")]}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a line, or at /file with the file that the environment variable HELLO_FILE names."""
    if scope["path"] == "/file":
        await FileResponse(os.environ["HELLO_FILE"])(scope, receive, send)
    else:
        await send(START)
        await send({"type": "http.response.body", "body": b"Hello, world!"})

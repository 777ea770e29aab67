"""Browsers: what the Hub's clients read may be read by the pages of any site (CORS), as transformers.js does.

No cookie counts on these routes, so a page gets what anybody gets, or what a token gives that it has been told. Nothing
else of a server is shared in this way: neither pages, nor our own API, nor what writes.
"""

import re
from collections.abc import Sequence

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.server.edge.admission import READING
from registry.server.hub.route import HubRoute
from registry.server.routing import Routing

QUESTIONS = ("/api/models/{namespace}/{name}/paths-info/{rev}",)  # posted, since they are too long for an address
SHOWN = (
    "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Link, Retry-After, X-Error-Code, "
    "X-Error-Message, X-HF-Warning, X-Linked-Etag, X-Linked-Size, X-Repo-Commit, X-Request-Id"
)
SHARED = ((b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", SHOWN.encode()))
NAMES = re.compile(rb"[A-Za-z0-9, _-]{0,1000}")  # of headers that a page wants to send
SECONDS = b"7200"  # for which a browser keeps the answer; none keeps it longer


class Browsers:
    """Middleware that lets pages of any site read the Hub's routes.

    Args:
        app: The layers inside.
        routes: All routes; they must be complete when the first request comes.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute]) -> None:
        self.app, self.routing = app, Routing(app, routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and (headers := self.permission(scope)) is not None:
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return

        async def send_shared(message: Message) -> None:
            if message["type"] == "http.response.start" and is_shared(scope.get("route"), scope["method"]):
                message["headers"] = [*message["headers"], *SHARED]
            await send(message)

        await self.app(scope, receive, send_shared)

    def permission(self, scope: Scope) -> list[tuple[bytes, bytes]] | None:
        """Return the headers that allow the request that a browser asks about; None if it is not allowed."""
        asked = dict(scope["headers"])
        method = asked.get(b"access-control-request-method", b"").decode("latin-1")
        names = asked.get(b"access-control-request-headers", b"")
        choice = self.routing.choices.get(method)
        found = choice.find(scope["path"]) if choice else None
        if found is None or not is_shared(found[0].original_route, method) or not NAMES.fullmatch(names):
            return None
        return [
            *SHARED,
            (b"access-control-allow-methods", method.encode()),
            (b"access-control-allow-headers", names),
            (b"access-control-max-age", SECONDS),
        ]


def is_shared(route: object, method: str) -> bool:
    """Return whether pages of other sites may use a method of a route."""
    return isinstance(route, HubRoute) and (method in READING or route.path in QUESTIONS)

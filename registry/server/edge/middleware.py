"""Middleware around every request: an id, a rate for its address, deadlines for its body, one log line, metrics.

An unexpected error is answered with problem details, too.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Iterable, MutableMapping
from typing import Any

import structlog
from anyio import CapacityLimiter, to_thread
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry import tracing
from registry.errors import TimedOut, TooMany
from registry.server.edge.limits import Rate, address_key
from registry.server.errors import problem
from registry.server.processes.metrics import Metrics

log = structlog.get_logger()
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"}  # others are one label, `other`
SECURITY = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
# A year, which is what browsers' own lists ask for, so that nobody who comes back now and then is ever sent in clear.
# Other hosts of the domain are their operators' affair.
STRICT_TRANSPORT = (b"strict-transport-security", b"max-age=31536000")
HTML_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
OTHER_POLICY = b"default-src 'none'; frame-ancestors 'none'; sandbox"
BODY_WINDOW = 60.0  # seconds of waiting for a body after which its rate is checked, again and again
COUNTING = 8  # threads that wait for a shared store of rate limits
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")


def policy(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return what a browser may do with an answer: the one place that says so, for every route."""
    kind = dict(headers).get(b"content-type", b"").lower()
    return HTML_POLICY if kind.startswith(b"text/html") else OTHER_POLICY


class Edge:
    """The outermost layer of the app.

    Args:
        app: The layers inside.
        metrics: The counters for requests.
        address_rate: How many requests an address may send.
        body_seconds: The longest wait for the next bytes of a body.
        body_rate: The fewest bytes of a body for each second of waiting; 0 for no limit.
        encrypted: Whether people reach this registry by https alone; browsers are told so.
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        address_rate: Rate,
        body_seconds: float,
        body_rate: int,
        encrypted: bool = False,
    ) -> None:
        self.app, self.metrics, self.address_rate = app, metrics, address_rate
        self.body_seconds, self.body_rate = body_seconds, body_rate
        self.counting = CapacityLimiter(COUNTING)
        self.security = (*SECURITY, STRICT_TRANSPORT) if encrypted else SECURITY
        self.log = log.bind()  # configured by now; `log` itself looks that up for every line

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with tracing.span("request", "server") as span:  # a trace of its own, whatever a stranger's headers name
            await self.handle(scope, receive, send, span)

    async def handle(self, scope: Scope, receive: Receive, send: Send, span: tracing.Span) -> None:
        """Handle one request."""
        started, status, body_over = time.perf_counter(), 0, False
        waited, received = 0.0, 0  # seconds for the body, and its bytes, since its rate was checked
        wanted_id = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = wanted_id.decode() if REQUEST_ID.fullmatch(wanted_id) else uuid.uuid4().hex
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id

        async def receive_in_time() -> Message:
            nonlocal body_over, waited, received
            if body_over:
                return await receive()
            began = time.perf_counter()
            try:
                message = await asyncio.wait_for(receive(), self.body_seconds)
            except TimeoutError:
                raise TimedOut(
                    f"No bytes of the body arrived for {self.body_seconds:g} seconds; send the request again."
                ) from None
            body_over = not message.get("more_body", False)
            size = len(message.get("body", b""))
            self.metrics.received.inc(size)
            waited, received = waited + time.perf_counter() - began, received + size
            if waited >= BODY_WINDOW and not body_over:
                if received < waited * self.body_rate:
                    raise TimedOut(
                        f"The body arrived at less than {self.body_rate} bytes per second; send the request again."
                    )
                waited, received = 0.0, 0
            return message

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
                message["headers"] += [*self.security, (b"content-security-policy", policy(message["headers"]))]
            self.metrics.sent.inc(len(message.get("body", b"")))
            await send(message)

        try:
            if (headers := await self.refuse(scope)) is not None:
                detail = f"This address sends too many requests; try again in {headers['Retry-After']} seconds."
                headers = {**headers, "X-Error-Message": detail}  # shown by the Hub's clients
                answer = problem(request_id, 429, TooMany.slug, detail, extra=headers)
                await answer(scope, receive, send_marked)
            else:
                await self.app(scope, receive_in_time, send_marked)
        except ClientDisconnect:
            status = 499
        except Exception:
            self.log.exception("request.error", request_id=request_id)
            if status:
                raise
            detail = "The registry failed on this request; its operator finds the reason in the log."
            answer = problem(request_id, 500, "error", detail)
            await answer(scope, receive, send_marked)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.perf_counter() - started
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(method, route, status).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            span.update_name(f"{method} {route}")
            span.set_attribute("http.request.method", method)
            span.set_attribute("http.route", route)
            span.set_attribute("http.response.status_code", status)
            span.set_attribute("crumb.request_id", request_id)
            if status >= 500:
                tracing.fail(span, str(status))
            actor = state.get("actor")
            self.log.info(
                "request",
                request_id=request_id,
                method=method,
                path=scope["path"],
                status=status,
                seconds=round(seconds, 4),
                user=actor.name if actor else None,
            )

    async def refuse(self, scope: Scope) -> dict[str, str] | None:
        """Return the headers of a refusal if the address of a request sends too many, else None."""
        host, _ = scope.get("client") or (None, 0)
        if self.address_rate.shared:
            return await to_thread.run_sync(self.address_rate.refuse, address_key(host), limiter=self.counting)
        return self.address_rate.refuse(address_key(host))

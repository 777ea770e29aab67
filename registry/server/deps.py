"""The one way into every route: who is asking, may they, is the body small and strict.

FastAPI reads a JSON body before it asks any dependency, so this happens in the route class: nothing of a body is
read before the token and the announced length have been accepted. A route without a policy cannot be registered.

A route opens its one transaction itself and ends it before it returns. As a dependency it would stay open while
FastAPI waits for a second thread to shape the answer, and forty writers would wait for each other for ever.
"""

import json
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter
from fastapi import Depends, Path, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from registry.db.session import Database
from registry.errors import InvalidRequest, TooLarge, Unauthenticated
from registry.schemas import NAME
from registry.services import actors
from registry.services.actors import Actor
from registry.services.uploads import Limits
from registry.settings import Settings
from registry.store import Store

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class Context:
    """What an app is made of."""

    settings: Settings
    database: Database
    store: Store
    upload_limits: Limits
    hashing: CapacityLimiter


def allow(scope: str | None) -> Callable[[Endpoint], Endpoint]:
    """Say who may call a route: anybody (None), or holders of a token with a scope."""

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["policy"] = (scope,)
        return endpoint

    return mark


class Route(APIRoute):
    """A route that admits its caller before it reads the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler."""
        handle = super().get_route_handler()
        (scope,) = self.endpoint.__dict__["policy"]  # a route without @allow fails here, at start

        async def admitted(request: Request) -> Response:
            request.state.actor = await run_in_threadpool(admit, request, scope)
            if self.body_field is not None:
                await read_json(request, context(request).settings.json_bytes)
            return await handle(request)

        return admitted


def context(request: Request) -> Context:
    """Return what the app is made of."""
    made: Context = request.app.state.context
    return made


def admit(request: Request, scope: str | None) -> Actor | None:
    """Return who is asking; None for somebody without a token on a public route.

    Raises:
        Unauthenticated: no token, or one that is not valid.
        Forbidden: the token lacks the scope.
    """
    given = request.headers.get("authorization")
    if given is None:
        if scope is not None:
            raise Unauthenticated("This needs a token; log in with `crumb login`.")
        return None
    kind, _, secret = given.partition(" ")
    if kind.lower() != "bearer" or not secret:
        raise Unauthenticated("The Authorization header is 'Bearer <token>'.")
    database = context(request).database
    with database.read() as session:
        actor = actors.authenticate(session, secret.strip())
    if actors.use_is_stale(actor):
        with suppress(DBAPIError), database.write() as session:  # reading must not depend on writing
            actors.record_use(session, actor)
    actor.require(scope or "read")
    return actor


async def read_json(request: Request, limit: int) -> None:
    """Read a JSON body of at most `limit` bytes strictly, and leave it where FastAPI looks for it.

    Raises:
        TooLarge: there are more bytes, whatever Content-Length says.
        InvalidRequest: it is not strict JSON (RFC 8259 without duplicate names, NaN or lone surrogates).
    """
    announced = request.headers.get("content-length", "0")
    raw = bytearray()
    if not announced.isdecimal() or int(announced) <= limit:
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > limit:
                break
    if len(raw) > limit or (announced.isdecimal() and int(announced) > limit):
        raise TooLarge(f"A request body has at most {limit} bytes.", field="body")
    request._body = bytes(raw)
    if raw:
        check_json(bytes(raw))


def check_json(raw: bytes) -> None:
    """Refuse what JSON parsers disagree about.

    Raises:
        InvalidRequest: says what.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in found]
        if len(set(names)) != len(names):
            raise ValueError("a name occurs twice in one object")
        return dict(found)

    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        parsed = json.loads(raw.decode("utf-8"), object_pairs_hook=pairs, parse_constant=constant)
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = str(error) if not isinstance(error, UnicodeError) else "it is not UTF-8"
        raise InvalidRequest(f"The body is not strict JSON: {reason}.", field="body") from None


def get_actor(request: Request) -> Actor:
    """Return who is asking, on a route that needs a token."""
    actor: Actor = request.state.actor
    return actor


def get_model_name(
    namespace: Annotated[str, Path(pattern=rf"^{NAME}$")], name: Annotated[str, Path(pattern=rf"^{NAME}$")]
) -> str:
    """Return `namespace/name` from the path."""
    return f"{namespace}/{name}"


ContextDep = Annotated[Context, Depends(context)]
ActorDep = Annotated[Actor, Depends(get_actor)]
ModelName = Annotated[str, Depends(get_model_name)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]

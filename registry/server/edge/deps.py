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
from typing import Annotated, Any, ClassVar, TypeVar

from anyio import CapacityLimiter
from fastapi import Depends, Path, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from registry.db.session import Database
from registry.errors import InvalidRequest, TooLarge, TooMany, Unauthenticated
from registry.files.names import NAME
from registry.server.edge.downloads import Gate
from registry.server.edge.limits import Rate
from registry.services.blobs.uploads import UploadLimits
from registry.services.people import access, actors
from registry.services.people.actors import Actor
from registry.services.people.rules import RULES
from registry.settings import Settings
from registry.storage.bucket import Bucket
from registry.storage.store import Store

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class Context:
    """What an app is made of."""

    settings: Settings
    database: Database
    store: Store
    upload_limits: UploadLimits
    hashing: CapacityLimiter
    token_rate: Rate
    gate: Gate
    bucket: Bucket | None


def allow(action: str) -> Callable[[Endpoint], Endpoint]:
    """Say what a route does: an action of services/rules.py, which says who may."""
    assert action in RULES, action

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["action"] = action
        return endpoint

    return mark


class Route(APIRoute):
    """A route that admits its caller before it reads the body.

    A `lenient` one takes a token that the registry does not know for none: the Hub's clients send the one they have.
    """

    lenient: ClassVar[bool] = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler."""
        handle = super().get_route_handler()
        action = self.endpoint.__dict__["action"]  # a route without @allow fails here, at start

        async def admitted(request: Request) -> Response:
            request.state.actor = None
            await run_in_threadpool(self.admit, request, action)
            if await self.read(request):
                await run_in_threadpool(self.identify, request, action)  # a body may have taken its time
            return await handle(request)

        return admitted

    def admit(self, request: Request, action: str) -> None:
        """Let the caller in, once the rules let them do the action on what the path names; none without a token.

        Raises:
            Unauthenticated: no token where one is needed, or one that is not valid.
            TooMany: the token has been used too often lately.
            Forbidden, NotFound: as `access.admit` says.
        """
        actor = self.identify(request, action, counted=True)
        if actor is not None and actors.use_is_stale(actor):
            # Reading must not depend on writing.
            with suppress(DBAPIError), context(request).database.write() as session:
                actors.record_use(session, actor)

    def identify(self, request: Request, action: str, *, counted: bool = False) -> Actor | None:
        """Find out who is asking, and whether the rules let them, as `admit` does; it is counted when asked."""
        with context(request).database.read() as session:
            try:
                actor = self.authenticate(session, request)
            except Unauthenticated:
                if not self.lenient:
                    raise
                actor = None
            request.state.actor = actor
            if actor is not None and counted:
                count(request, actor)
            access.admit(session, actor, action, request.path_params)
        return actor

    def authenticate(self, session: Session, request: Request) -> Actor | None:
        """Return who a request says it is from, if anybody.

        Raises:
            Unauthenticated: what it says is not valid.
        """
        secret = bearer(request)
        return actors.authenticate(session, secret, request.state.request_id) if secret else None

    async def read(self, request: Request) -> bool:
        """Read the body, if the route takes one; say whether it does."""
        if self.body_field is not None:
            await read_json(request, context(request).settings.json_bytes)
        return self.body_field is not None


def context(request: Request) -> Context:
    """Return what the app is made of."""
    made: Context = request.app.state.context
    return made


def count(request: Request, actor: Actor) -> None:
    """Count a request against the rate of its token.

    Raises:
        TooMany: it is one too many.
    """
    headers = context(request).token_rate.refuse(str(actor.token.id))
    if headers is not None:
        request.state.rate_headers = headers
        wait = int(headers["Retry-After"])
        raise TooMany(f"This token asks too often; come back in {wait} seconds.", retry_after=wait)


def bearer(request: Request) -> str | None:
    """Return the token that came with a request, if any.

    Raises:
        Unauthenticated: the header is no bearer token.
    """
    given = request.headers.get("authorization")
    if given is None:
        return None
    kind, _, secret = given.partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("The Authorization header is 'Bearer <token>'.")
    return secret.strip()


async def read_json(request: Request, limit: int) -> None:
    """Read a JSON body of at most `limit` bytes strictly, and leave it where FastAPI looks for it.

    Raises:
        TooLarge: there are more bytes.
        InvalidRequest: it is not strict JSON (RFC 8259 without duplicate names, NaN or lone surrogates).
    """
    raw = await read_bytes(request, limit)
    if raw:
        check_json(raw)


async def read_bytes(request: Request, limit: int) -> bytes:
    """Read a body of at most `limit` bytes; whoever asks for it again gets the same.

    Raises:
        TooLarge: there are more bytes, whatever Content-Length says.
    """
    if hasattr(request, "_body"):
        return request._body
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
    return request._body


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


def get_visitor(request: Request) -> Actor | None:
    """Return who is asking, on a route that needs no token."""
    actor: Actor | None = request.state.actor
    return actor


def get_model_name(
    namespace: Annotated[str, Path(pattern=rf"^{NAME}$")], name: Annotated[str, Path(pattern=rf"^{NAME}$")]
) -> str:
    """Return `namespace/name` from the path."""
    return f"{namespace}/{name}"


def get_patch(number: Annotated[str, Path(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?$")]) -> tuple[int, int | None]:
    """Return number and revision of a patch from the path, `12` or `12.2`."""
    first, _, second = number.partition(".")
    return int(first), int(second) if second else None


ContextDep = Annotated[Context, Depends(context)]
ActorDep = Annotated[Actor, Depends(get_actor)]
VisitorDep = Annotated[Actor | None, Depends(get_visitor)]
ModelName = Annotated[str, Depends(get_model_name)]
PatchRef = Annotated[tuple[int, int | None], Depends(get_patch)]
UserName = Annotated[str, Path(pattern=rf"^{NAME}$", alias="user")]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]


def get_public_url(request: Request) -> str:
    """Return where the caller reaches this registry, without a slash at the end."""
    return (context(request).settings.public_url or str(request.base_url)).rstrip("/")


PublicUrl = Annotated[str, Depends(get_public_url)]

"""Admission to a route: who is asking, whether the rules allow it, and a body that is small and strict.

FastAPI reads a JSON body before it calls any dependency, so admission happens in the route class: nothing of a body is
read before the token and the announced length have been accepted. FastAPI would also parse and validate in the event
loop: it finds that done, since it takes an instance of a route's schema as it is. A request that only reads has no
body: it is admitted, given its arguments and answered in one turn of one thread. A route without a policy cannot be
registered.

A route opens its one transaction itself and ends it before it returns. As a dependency it would stay open while
FastAPI waits for a second thread to serialise the answer, and forty writers would wait for each other for ever.
"""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cached_property, partial
from inspect import Parameter, iscoroutinefunction, signature
from typing import Annotated, Any, ClassVar, TypeVar, get_origin

import structlog
from fastapi import Depends, Request, Response
from fastapi.params import Depends as DependsMark
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.db.session import one_reading
from registry.errors import BlobDamaged, TooMany, Unauthenticated
from registry.server.arguments import Arguments
from registry.server.edge.bodies import parse_body, validate_json
from registry.server.edge.conditions import TAGGED, tag
from registry.server.edge.context import get_context
from registry.server.edge.limits import Rate, address_key
from registry.services.blobs import damage
from registry.services.people import access, actors
from registry.services.people.actors import Actor
from registry.services.people.rules import RULES

log = structlog.get_logger()

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
READING = {"GET", "HEAD"}


def allow(action: str, extend: access.Extension | None = None) -> Callable[[Endpoint], Endpoint]:
    """Name the action of a route; its rule in services/people/rules.py decides who may call it.

    Args:
        action: The action.
        extend: If a glance at the model is enough for the route, what is read along with it: see `access.glance`.
    """
    assert action in RULES, action

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__.update(action=action, extend=extend)
        return endpoint

    return mark


class Route(APIRoute):
    """A route that admits its caller before it reads the body.

    A `lenient` route treats an unknown token as no token: the Hub's clients send whatever token they have.
    """

    lenient: ClassVar[bool] = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.in_one_turn = set(options["methods"] or ()) <= READING and not waits(endpoint)
        super().__init__(path, endpoint, **options)

    def answer(self, request: Request) -> Response:
        """Admit the caller, answer, and write the answer as JSON, all in one thread and one reading transaction.

        FastAPI would go to a thread for each of the three.
        """
        added = Response() if self.arguments.adds_headers else None
        with one_reading():
            self.admit(request, self.endpoint.__dict__["action"])
            found = self.endpoint(**self.arguments.read(request, added))
        if isinstance(found, Response):
            return found
        answer = Response(self.written.dump_json(found, by_alias=True), self.status_code or 200, media_type=TAGGED)
        if added is not None:
            answer.headers.update({name: value for name, value in added.headers.items() if name != "content-length"})
        return answer

    @cached_property
    def arguments(self) -> Arguments:
        """The arguments of this route's function."""
        return Arguments(self.dependant)

    @cached_property
    def written(self) -> TypeAdapter[Any]:
        """What writes an answer of this route as JSON, unless it makes a response itself."""
        return TypeAdapter(self.response_model)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind admission."""
        handle = super().get_route_handler()
        action = self.endpoint.__dict__["action"]  # a route without @allow fails here, at start
        assert self.body_field is None or issubclass(self.shape, BaseModel), self.path

        async def admitted(request: Request) -> Response:
            request.state.actor = None
            try:
                if self.in_one_turn:
                    return tag(request, await get_context(request).readers.run(self.answer, request))
                await run_in_threadpool(self.admit, request, action)
                if await self.read(request):
                    await run_in_threadpool(self.identify, request, action)  # reading a body may have taken long
                return tag(request, await handle(request))
            except BlobDamaged as error:  # its sentence says that the operator was told
                await run_in_threadpool(note_damage, request, error)
                raise

        return admitted

    @cached_property
    def direct(self) -> ASGIApp | None:
        """The handler without what FastAPI wraps it in, on a route that needs none of it: see `routing`."""
        handle = self.get_route_handler()

        async def respond(scope: Scope, receive: Receive, send: Send) -> None:
            response = await handle(Request(scope, receive, send))
            await response(scope, receive, send)

        return respond if self.in_one_turn else None

    def admit(self, request: Request, action: str) -> None:
        """Admit the caller if the rules allow the action on what the path names; count the request of a token.

        Raises:
            Unauthenticated: A token is needed and missing, or the token is not valid.
            TooMany: The token has sent too many requests.
            Forbidden, NotFound: As for `access.admit`.
        """
        actor = self.identify(request, action, counted=True)
        if actor is not None and actors.use_is_stale(actor):
            # Reading must not depend on writing.
            with suppress(DBAPIError), get_context(request).database.write() as session:
                actors.record_use(session, actor)

    def identify(self, request: Request, action: str, *, counted: bool = False) -> Actor | None:
        """Find out who is asking, and check the rules as `admit` does; count the request if `counted`."""
        with get_context(request).database.read() as session:
            try:
                actor = self.authenticate(session, request)
            except Unauthenticated:
                if not self.lenient:
                    raise
                actor = None
            request.state.actor = actor
            if actor is not None and counted:
                count_request(request, actor)
            access.admit(session, actor, action, request.path_params, self.endpoint.__dict__["extend"])
        return actor

    def authenticate(self, session: Session, request: Request) -> Actor | None:
        """Return the user that the token of a request speaks for, if it has one.

        Raises:
            Unauthenticated: The token is not valid.
        """
        secret = bearer_token(request)
        return actors.authenticate(session, secret, request.state.request_id) if secret else None

    @property
    def shape(self) -> type[BaseModel]:
        """The schema of the body, on a route that takes one."""
        assert self.body_field is not None
        shape: type[BaseModel] = self.body_field.field_info.annotation  # type: ignore[assignment]
        return shape

    async def read(self, request: Request) -> bool:
        """Read the body if the route takes one; return whether it does."""
        if self.body_field is None:
            return False
        request._json = await parse_body(request, partial(validate_json, self.shape))
        return True


def waits(endpoint: Callable[..., Any]) -> bool:
    """Say whether a route's function is async, or depends on one that needs a thread, and so the caller's admission."""
    metadata = (one.annotation.__metadata__ for one in signature(endpoint).parameters.values() if is_annotated(one))
    needed = [mark.dependency for marks in metadata for mark in marks if isinstance(mark, DependsMark)]
    return iscoroutinefunction(endpoint) or not all(map(iscoroutinefunction, needed))


def is_annotated(parameter: Parameter) -> bool:
    """Say whether a parameter has metadata."""
    return get_origin(parameter.annotation) is Annotated


def count_request(request: Request, actor: Actor) -> None:
    """Count a request against the rate of its token.

    Raises:
        TooMany: The token has sent too many requests.
    """
    count(request, get_context(request).token_rate, str(actor.token.id), "This token sends too many requests")


def count_stranger(request: Request, rate: Rate | None = None) -> None:
    """Count an attempt of somebody without a token, or with none that matters, against a rate of their address.

    Args:
        request: The attempt.
        rate: The rate; that of all such attempts if None.

    Raises:
        TooMany: The address has made too many.
    """
    host = request.client.host if request.client else None
    rate = rate or get_context(request).stranger_rate
    count(request, rate, address_key(host), "This address has tried too often")


def count(request: Request, rate: Rate, key: str, sentence: str) -> None:
    """Count a request against a rate, and leave what its headers say to the answer if that is too many.

    Raises:
        TooMany: It is too many, which the sentence says.
    """
    headers = rate.refuse(key)
    if headers is not None:
        request.state.rate_headers = headers
        wait = int(headers["Retry-After"])
        raise TooMany(f"{sentence}; try again in {wait} seconds.", retry_after=wait)


def bearer_token(request: Request) -> str | None:
    """Return the token of a request, if it has one.

    Raises:
        Unauthenticated: The Authorization header holds no bearer token.
    """
    header = request.headers.get("authorization")
    if header is None:
        return None
    kind, _, secret = header.partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("The Authorization header must be 'Bearer <token>'.")
    return secret.strip()


async def get_actor(request: Request) -> Actor:
    """Return the caller, on a route that needs a token."""
    actor: Actor = request.state.actor
    return actor


async def get_visitor(request: Request) -> Actor | None:
    """Return the caller, on a route that needs no token; None without one."""
    actor: Actor | None = request.state.actor
    return actor


ActorDep = Annotated[Actor, Depends(get_actor)]
VisitorDep = Annotated[Actor | None, Depends(get_visitor)]


def note_damage(request: Request, error: BlobDamaged) -> None:
    """Tell the operator of a damaged blob: in the log, and by a mark on its row."""
    log.error("blob.damaged", sha256=error.field, path=request.url.path)
    ctx = get_context(request)
    if error.field is not None:
        with suppress(DBAPIError):
            damage.note(ctx.database, ctx.store, error.field)

"""Admission to a route: who is asking, whether the rules allow it, and a body that is small and strict.

FastAPI reads a JSON body before it calls any dependency, so admission happens in the route class: nothing of a body is
read before the token and the announced length have been accepted. FastAPI would also parse and validate in the event
loop: it finds that done, since it takes an instance of a route's schema as it is. A route without a policy cannot be
registered.

A route opens its one transaction itself and ends it before it returns. As a dependency it would stay open while
FastAPI waits for a second thread to serialise the answer, and forty writers would wait for each other for ever.
"""

from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, ClassVar, TypeVar

import structlog
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from registry.errors import BlobDamaged, TooMany, Unauthenticated
from registry.server.edge.bodies import parse_body, validate_json
from registry.server.edge.conditions import tag
from registry.server.edge.context import get_context
from registry.services.blobs import damage
from registry.services.people import access, actors
from registry.services.people.actors import Actor
from registry.services.people.rules import RULES

log = structlog.get_logger()

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def allow(action: str) -> Callable[[Endpoint], Endpoint]:
    """Name the action of a route; its rule in services/people/rules.py decides who may call it."""
    assert action in RULES, action

    def mark(endpoint: Endpoint) -> Endpoint:
        endpoint.__dict__["action"] = action
        return endpoint

    return mark


class Route(APIRoute):
    """A route that admits its caller before it reads the body.

    A `lenient` route treats an unknown token as no token: the Hub's clients send whatever token they have.
    """

    lenient: ClassVar[bool] = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind admission."""
        handle = super().get_route_handler()
        action = self.endpoint.__dict__["action"]  # a route without @allow fails here, at start
        assert self.body_field is None or issubclass(self.shape, BaseModel), self.path

        async def admitted(request: Request) -> Response:
            request.state.actor = None
            await run_in_threadpool(self.admit, request, action)
            if await self.read(request):
                await run_in_threadpool(self.identify, request, action)  # reading a body may have taken long
            try:
                return tag(request, await handle(request))
            except BlobDamaged as error:  # its sentence says that the operator was told
                await run_in_threadpool(note_damage, request, error)
                raise

        return admitted

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
            access.admit(session, actor, action, request.path_params)
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


def count_request(request: Request, actor: Actor) -> None:
    """Count a request against the rate of its token.

    Raises:
        TooMany: The token has sent too many requests.
    """
    headers = get_context(request).token_rate.refuse(str(actor.token.id))
    if headers is not None:
        request.state.rate_headers = headers
        wait = int(headers["Retry-After"])
        raise TooMany(f"This token sends too many requests; try again in {wait} seconds.", retry_after=wait)


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

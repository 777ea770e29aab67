"""Admission to the routes of the Hugging Face Hub's clients: undecoded paths, and errors in the Hub's terms.

    raw path ── RawPath ──> routed with %2F in it ── HubRoute ──> admitted; an unknown token counts as none
                                                        ├── not composed yet: composed, if the caller may ask for it
                                                        └── errors: X-Error-Code, X-Error-Message

A revision or a file may have a slash in its name, written `%2F`. Servers decode a path before it is routed, and could
then not tell that slash from others. So the paths of these routes are routed undecoded, and each parameter is decoded
by itself.
"""

import re
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar
from urllib.parse import unquote

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import AfterValidator
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from registry.db.tables import Job
from registry.errors import (
    BreadcrumbError,
    EntryNotFound,
    Forbidden,
    NotComposed,
    NotFound,
    RangeNotSatisfiable,
    RevisionNotFound,
    TooMany,
    WrongState,
)
from registry.server.edge.admission import READING, Route
from registry.server.edge.context import Context, get_context
from registry.server.errors import STATUS
from registry.server.watching import job_changes
from registry.services.composing.snapshots import Snapshot
from registry.services.hub import repositories
from registry.services.people import access

PATHS = re.compile(rb"/api/(?:models|whoami-v2)(?:/|$)|/[^/]+/[^/]+/(?:resolve|raw|tree|blob|commits?)/")
CODES: tuple[tuple[type[BreadcrumbError], str], ...] = (
    (EntryNotFound, "EntryNotFound"),
    (RevisionNotFound, "RevisionNotFound"),
    (NotFound, "RepoNotFound"),
)
HEAD_SECONDS = 8.0  # the Hub's clients wait ten for a HEAD
CALL_SECONDS = 55.0  # for other calls they wait for ever, and proxies a minute
LOOK_SECONDS = 0.25  # after which the job is looked at again, whether or not a change was notified


class RawPath:
    """Middleware that routes the Hub's paths undecoded."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of ASGI."""
        raw = scope.get("raw_path") or b""
        if scope["type"] == "http" and raw.isascii() and (PATHS.match(raw) or PATHS.match(scope["path"].encode())):
            # Also where only the decoded path is one of these, so that nothing is decoded twice.
            scope["path"] = raw.decode("ascii")
        await self.app(scope, receive, send)


def decode(text: str) -> str:
    """Return a parameter of a raw path, decoded.

    Raises:
        ValueError: The parameter is not UTF-8.
    """
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


Decoded = Annotated[str, AfterValidator(decode)]


class HubRoute(Route):
    """A route for the Hub's clients."""

    lenient: ClassVar[bool] = True
    reads: ClassVar[bool] = True

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind admission, with errors in the Hub's terms."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                try:
                    return await handle(request)
                except NotComposed as why:
                    await compose(request, why)
                    return await handle(request)
            except BreadcrumbError as why:
                return refusal(request, why, reads=self.reads)
            except RequestValidationError as why:
                first = why.errors()[0]
                return answer(400, f"{first['loc'][-1]}: {first['msg']}.", {})
            except OperationalError:  # clients retry the GET of a file after a 429, but not after a 503
                return refusal(request, TooMany("The database does not answer; try again in a moment.", retry_after=5))

        return translated


class PushRoute(HubRoute):
    """A route by which the Hub's clients push. What they must change before they can is told as it is."""

    reads: ClassVar[bool] = False


def refusal(request: Request, error: BreadcrumbError, *, reads: bool = True) -> JSONResponse:
    """Return an error as the Hub's clients understand it.

    A caller without a token gets 401 for a missing repository, since others may be able to see it.
    """
    status, headers = STATUS[type(error)], dict[str, str]()
    if status == 422:
        status = 400
    if reads and isinstance(error, WrongState) and (request.method in READING or "rev" in request.path_params):
        # A revision that is not composed, or not imported yet.
        error = RevisionNotFound(error.message)
        status = 404
    code = next((code for kind, code in CODES if isinstance(error, kind)), None)
    if code is not None:
        headers["X-Error-Code"] = code
    if code == "RepoNotFound" and request.state.actor is None:
        status = 401
    if code == "EntryNotFound" and hasattr(request.state, "commit"):  # a file, and nothing else of a model
        headers["X-Repo-Commit"] = request.state.commit
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    if isinstance(error, TooMany):
        headers["Retry-After"] = str(error.retry_after)
        headers |= getattr(request.state, "rate_headers", {})
    return answer(status, error.message, headers)


def answer(status: int, message: str, headers: dict[str, str]) -> JSONResponse:
    """Return a refusal with a message."""
    return JSONResponse({"error": message}, status, headers={**headers, "X-Error-Message": ascii_line(message)})


def ascii_line(text: str) -> str:
    """Return text reduced to what a header may hold."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:1000]


def snapshot_headers(snapshot: Snapshot) -> dict[str, str]:
    """Return the headers that name the commit of an answer, and warn of yanked patches."""
    return {"X-Repo-Commit": snapshot.commit} | (
        {"X-HF-Warning": f"{snapshot.ref}; {ascii_line(' '.join(snapshot.warnings))}"} if snapshot.warnings else {}
    )


async def compose(request: Request, why: NotComposed) -> None:
    """Have the revision of a request composed, and wait for it.

    Raises:
        NotComposed: The caller may not ask for compositions.
        RevisionNotFound: The revision cannot be composed.
        TooMany: The composition takes longer than the caller waits; they should ask again.
    """
    until = time.monotonic() + (HEAD_SECONDS if request.method == "HEAD" else CALL_SECONDS)
    job = await run_in_threadpool(request_composition, request, why)
    if job is None:
        return
    with job_changes(get_context(request).database.notifications, job) as changed:
        while True:
            state, error = await run_in_threadpool(job_state, get_context(request), job)
            if state == "done":
                return
            if state not in ("queued", "running"):
                raise RevisionNotFound(f"The revision could not be composed: {error or state}")
            if time.monotonic() > until:
                raise TooMany("The revision is being composed; ask again in a moment.", retry_after=5)
            await changed(LOOK_SECONDS)


def request_composition(request: Request, why: NotComposed) -> uuid.UUID | None:
    """Ask for the composition that a request needs; return its job, or None if it is composed by now."""
    actor, path = request.state.actor, request.path_params
    if actor is None:
        raise why
    with get_context(request).database.write() as session:
        try:
            access.admit(session, actor, "recipe.compose", path)
        except Forbidden:
            raise why from None
        model = repositories.ready(session, f"{path['namespace']}/{path['name']}", lock=True)
        job = repositories.compose(session, actor, model, decode(path["rev"]))
        get_context(request).admit(session, job)
        return job.id if job else None


def job_state(ctx: Context, job_id: uuid.UUID) -> tuple[str, str | None]:
    """Return the state of a job, and why it failed."""
    with ctx.database.read() as session:
        job = session.get(Job, job_id)
        return (job.state, job.error) if job else ("gone", None)


async def get_repository(namespace: str, name: str) -> str:
    """Return `namespace/name` from the path; admission has checked that the model exists."""
    return f"{namespace}/{name}"


Repository = Annotated[str, Depends(get_repository)]

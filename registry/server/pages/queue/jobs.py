"""Jobs: what one is doing, live, and the way out of it."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from sqlalchemy.exc import OperationalError

from registry import schemas
from registry.errors import Forbidden, NotFound, Unauthenticated
from registry.server.api import jobs as job_routes
from registry.server.edge.deps import ActorDep, Context, ContextDep, VisitorDep, allow
from registry.server.pages.frame import render
from registry.server.pages.frame.cookies import COOKIE
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.pages.queue.streams import EventStream, Look, Streams, event
from registry.server.views import models as model_views
from registry.services.people import access, sign_ins
from registry.services.queue import jobs

router = APIRouter(prefix="/jobs/{job_id}", route_class=PageRoute, include_in_schema=False)
AT_ONCE = 200  # streams of a process
ENDED = "job-ended"
JobDep = Annotated[schemas.Job, Depends(job_routes.job)]


@router.get("")
@allow("server.read")
def job(request: Request, job_id: uuid.UUID, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Show a job."""
    with ctx.database.read() as session:
        row = jobs.find(session, actor, job_id)
        shown, cancellable = model_views.job(row, jobs.jobs_ahead(session, row)), jobs.cancellable(actor, row)
    return render.page(request, "job.html", job=shown, cancellable=cancellable)


@router.post("/cancel")
@allow("job.cancel")
def cancel(request: Request, job_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Cancel a job; what it would have composed has a page, which says what can be done now."""
    found = job_routes.cancel(job_id, actor, ctx)
    return redirect(
        request, f"/{found.model}/recipes/{found.subject}" if found.kind == "compose" else f"/jobs/{job_id}"
    )


@router.get("/events")
@allow("server.read")
async def events(request: Request, job_id: uuid.UUID, first: JobDep) -> Response:
    """Tell of a job until it has ended: what to show when something has changed, and `job-ended` at last."""
    streams: Streams = request.app.state.streams
    if streams.full:
        return render.page(request, "job_words.html", 503, job=first, crowded=True)
    return EventStream(streams, watching(request, job_id))


def watching(request: Request, job_id: uuid.UUID) -> Look:
    """Return what tells of the changes of a job, as long as whoever asked may see it."""
    said: list[str] = []

    def look() -> tuple[list[str], bool]:
        try:
            found = seen(request, request.app.state.context, job_id)
        except OperationalError:  # the database is away: the next look tells
            return [], False
        except (Forbidden, NotFound, Unauthenticated):  # signed out, say; the page that follows says why
            return [event("", ENDED)], True
        html = bytes(render.page(request, "job_words.html", job=found).body).decode()
        over = found.state not in jobs.ACTIVE
        news = [event(html)] if said != [html] else []
        said[:] = [html]
        return news + ([event("", ENDED)] if over else []), over

    return look


def seen(request: Request, ctx: Context, job_id: uuid.UUID) -> schemas.Job:
    """Return a job, if whoever has signed in in this browser may still see it.

    Raises:
        Unauthenticated: they have signed out, or their token was revoked.
        Forbidden, NotFound: they may not.
    """
    secret = request.cookies.get(COOKIE)
    known = request.state.actor is not None and secret is not None
    with ctx.database.read() as session:
        actor = sign_ins.find(session, secret) if known and secret else None
        access.admit(session, actor, "server.read", {})
        row = jobs.find(session, actor, job_id)
        return model_views.job(row, jobs.jobs_ahead(session, row))

"""The page of a job: its progress, live, and the form that cancels it."""

import uuid

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from registry import schemas
from registry.errors import Forbidden, NotFound, Unauthenticated
from registry.server.api import jobs as job_routes
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.context import Context, ContextDep
from registry.server.pages.frame import render
from registry.server.pages.frame.cookies import cookie
from registry.server.pages.frame.route import PageRoute, redirect
from registry.server.pages.queue.streams import EventStream, Look, event
from registry.server.views import jobs as job_views
from registry.server.watching import Streams, job_changes
from registry.services.people import access, sign_ins

router = APIRouter(prefix="/jobs/{job_id}", route_class=PageRoute, include_in_schema=False)
AT_ONCE = 200  # most streams of a server
ENDED = "job-ended"


@router.get("")
@allow("server.read")
def job(request: Request, job_id: uuid.UUID, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Show a job."""
    with ctx.database.read() as session:
        shown, cancellable = job_views.show_cancellable(session, actor, job_id)
    return render.page(request, "job.html", job=shown, cancellable=cancellable)


@router.post("/cancel")
@allow("job.cancel")
def cancel(request: Request, job_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> Response:
    """Cancel a job; that of a composition leads to the page of its recipe, which offers the next step."""
    shown = job_routes.cancel(job_id, actor, ctx)
    return redirect(
        request, f"/{shown.model}/recipes/{shown.subject}" if shown.kind == "compose" else f"/jobs/{job_id}"
    )


@router.get("/events")
@allow("server.read")
async def events(request: Request, job_id: uuid.UUID, actor: VisitorDep, ctx: ContextDep) -> Response:
    """Stream a job until it has ended: its new state with each change, and `job-ended` at last."""
    first = await run_in_threadpool(job_routes.show, ctx, actor, job_id)
    streams: Streams = request.app.state.streams
    if streams.full:
        return render.page(request, "job_words.html", 503, job=first, crowded=True)
    return EventStream(streams, job_changes(ctx.database.notifications, job_id), watch_job(request, job_id, first))


def watch_job(request: Request, job_id: uuid.UUID, first: schemas.Job) -> Look:
    """Return a function that reports the changes of a job, from `first` on, as long as the visitor may see it."""
    shown: list[str] = []
    unseen = [first]

    def look() -> tuple[list[str], bool]:
        try:
            job = unseen.pop() if unseen else visible_job(request, request.app.state.context, job_id)
        except OperationalError:  # the database does not answer: the next look reports the change
            return [], False
        except (Forbidden, NotFound, Unauthenticated):  # for instance signed out; the page that follows says why
            return [event("", ENDED)], True
        html = bytes(render.page(request, "job_words.html", job=job).body).decode()
        over = job_views.is_over(job)
        news = [event(html)] if shown != [html] else []
        shown[:] = [html]
        return news + ([event("", ENDED)] if over else []), over

    return look


def visible_job(request: Request, ctx: Context, job_id: uuid.UUID) -> schemas.Job:
    """Return a job if the user signed in in this browser may still see it.

    Raises:
        Unauthenticated: The user has signed out, or their token was revoked.
        Forbidden, NotFound: The user may no longer see the job.
    """
    secret = cookie(request)
    known = request.state.actor is not None and secret is not None
    with ctx.database.read() as session:
        actor = sign_ins.find(session, secret) if known and secret else None
        access.admit(session, actor, "server.read", {})
        return job_views.show(session, actor, job_id)

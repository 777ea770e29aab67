"""Routes of jobs."""

import uuid
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, VisitorDep, allow
from registry.server.edge.context import Context, ContextDep
from registry.server.errors import RESPONSES
from registry.server.views import jobs as job_views
from registry.server.watching import MOST_WAIT, await_change, job_changes
from registry.services.people.actors import Actor
from registry.services.queue import jobs

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], route_class=Route, responses=RESPONSES)


Wait = Annotated[float, Query(ge=0, le=MOST_WAIT, description="most seconds to wait for the job to change or end")]


@router.get("/{job_id}")
@allow("server.read")
async def job(request: Request, job_id: uuid.UUID, actor: VisitorDep, ctx: ContextDep, wait: Wait = 0) -> schemas.Job:
    """Show a job; with `wait`, as soon as it has changed or ended."""
    with job_changes(ctx.database.notifications, job_id) as changed:
        look = partial(ctx.readers.run, show, ctx, actor, job_id)
        return await await_change(request.app.state.streams, changed, look, job_views.is_over, wait)


def show(ctx: Context, actor: Actor | None, job_id: uuid.UUID) -> schemas.Job:
    """Return a job as it is now."""
    with ctx.database.read() as session:
        return job_views.show(session, actor, job_id)


@router.post("/{job_id}/cancel")
@allow("job.cancel")
def cancel(job_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.Job:
    """Cancel a composition; a job that has ended stays unchanged."""
    with ctx.database.write() as session:
        return job_views.job(jobs.cancel(session, actor, job_id))

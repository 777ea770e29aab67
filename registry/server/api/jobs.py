"""Routes of jobs."""

import uuid

from fastapi import APIRouter

from registry import schemas
from registry.server.edge.admission import ActorDep, Route, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.errors import RESPONSES
from registry.server.views import jobs as job_views
from registry.services.queue import jobs

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], route_class=Route, responses=RESPONSES)


@router.get("/{job_id}")
@allow("server.read")
def job(job_id: uuid.UUID, actor: VisitorDep, ctx: ContextDep) -> schemas.Job:
    """Show a job."""
    with ctx.database.read() as session:
        return job_views.show(session, actor, job_id)


@router.post("/{job_id}/cancel")
@allow("job.cancel")
def cancel(job_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.Job:
    """Cancel a composition; a job that has ended stays unchanged."""
    with ctx.database.write() as session:
        return job_views.job(jobs.cancel(session, actor, job_id))

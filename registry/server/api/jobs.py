"""Routes for jobs."""

import uuid

from fastapi import APIRouter

from registry import schemas
from registry.server.edge.deps import ActorDep, ContextDep, Route, VisitorDep, allow
from registry.server.errors import RESPONSES
from registry.server.views import models as model_views
from registry.services.queue import jobs

router = APIRouter(prefix="/api/v1/jobs", tags=["jobs"], route_class=Route, responses=RESPONSES)


@router.get("/{job_id}")
@allow("server.read")
def job(job_id: uuid.UUID, actor: VisitorDep, ctx: ContextDep) -> schemas.Job:
    """Show a job."""
    with ctx.database.read() as session:
        found = jobs.find(session, actor, job_id)
        return model_views.job(found, jobs.jobs_ahead(session, found))


@router.post("/{job_id}/cancel")
@allow("job.cancel")
def cancel(job_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.Job:
    """Cancel a composition; a job that has ended stays as it is."""
    with ctx.database.write() as session:
        return model_views.job(jobs.cancel(session, actor, job_id))

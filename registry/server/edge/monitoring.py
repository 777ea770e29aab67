"""Routes of monitoring: health and metrics."""

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text
from sqlalchemy.orm import Session

import registry
from registry.server.edge.admission import Route, allow
from registry.server.edge.context import ContextDep
from registry.server.errors import RESPONSES
from registry.services.queue import jobs

router = APIRouter(route_class=Route, responses=RESPONSES)


@router.get("/healthz", tags=["operation"])
@allow("server.read")
def healthz(ctx: ContextDep) -> dict[str, str]:
    """Check that database and disk answer."""
    with ctx.database.read() as session:
        session.execute(text("SELECT 1"))
    ctx.store.staging.stat()
    return {"status": "ok", "version": registry.version()}


@router.get("/metrics", tags=["operation"], response_class=Response)
@allow("server.read")
def metrics(request: Request, ctx: ContextDep) -> Response:
    """Return the counts of requests, bytes and jobs in Prometheus' text format."""
    with ctx.database.read() as session:
        lines = job_lines(session)
    return Response(generate_latest(request.app.state.metrics.registry) + lines, media_type=CONTENT_TYPE_LATEST)


def job_lines(session: Session) -> bytes:
    """Return the number of jobs by kind and state in Prometheus' text format."""
    lines = ["# HELP registry_jobs Jobs by kind and state", "# TYPE registry_jobs gauge"]
    lines += [
        f'registry_jobs{{kind="{kind}",state="{state}"}} {count}' for kind, state, count in jobs.count_by_state(session)
    ]
    return ("\n".join(lines) + "\n").encode()

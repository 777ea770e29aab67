"""Routes about the server itself: health, metrics, the description of the API."""

import hmac
from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

import registry
from registry.server.edge.admission import Route, allow, bearer_token
from registry.server.edge.context import Context, ContextDep, get_context
from registry.server.errors import RESPONSES
from registry.services.blobs import damage
from registry.services.composing import holding

HEALTH_SECONDS = 2.0  # for which an answer about the registry's health holds


def probe(ctx: Context) -> Exception | None:
    """Return why database or disk do not answer; None if both do."""
    try:
        with ctx.database.read() as session:
            session.execute(text("SELECT 1"))
        ctx.store.staging.stat()
    except (OperationalError, OSError) as error:
        return error
    return None


class MetricsRoute(Route):
    """A route for admins, and for the bearer of the operator's own token for Prometheus."""

    def admit(self, request: Request, action: str) -> None:
        """Admit whoever has that token without asking the database; anybody else as usual."""
        secret = get_context(request).settings.metrics_token
        given = bearer_token(request)
        if (
            secret is None
            or given is None
            or not hmac.compare_digest(given.encode(), secret.get_secret_value().encode())
        ):
            super().admit(request, action)


router = APIRouter(route_class=Route, responses=RESPONSES)
scraped = APIRouter(route_class=MetricsRoute, responses=RESPONSES)


@router.get("/healthz", tags=["operation"])
@allow("server.read")
def healthz(request: Request, ctx: ContextDep) -> dict[str, str]:
    """Check that database and disk answer."""
    failure = request.app.state.health.get(ctx)
    if failure is not None:
        raise failure.with_traceback(None)
    return {"status": "ok", "version": registry.version()}


@scraped.get("/metrics", tags=["operation"], response_class=Response)
@allow("admin.read")
def metrics(request: Request, ctx: ContextDep) -> Response:
    """Return the counts of requests, bytes, jobs, hung jobs and damaged blobs in Prometheus' text format.

    Also with REGISTRY_METRICS_TOKEN.
    """
    with ctx.database.read() as session:
        lines = job_lines(ctx.job_counts.get(session))
        lines += gauge("registry_hung_jobs", "Jobs that hung: tried again, or failed", ctx.hung_jobs.get(session))
        lines += gauge("registry_held_bytes", "Bytes of compositions on disk", holding.held_bytes(session))
        lines += gauge("registry_damaged_blobs", "Blobs that are damaged", damage.count(session))
    return Response(request.app.state.metrics.render() + lines, media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", include_in_schema=False)
@allow("server.read")
def description(request: Request) -> JSONResponse:
    """Describe the API in OpenAPI's terms."""
    return JSONResponse(request.app.openapi())


router.include_router(scraped)


def job_lines(counts: Sequence[tuple[str, str, int]]) -> bytes:
    """Return the number of jobs by kind and state in Prometheus' text format."""
    lines = ["# HELP registry_jobs Jobs by kind and state", "# TYPE registry_jobs gauge"]
    lines += [f'registry_jobs{{kind="{kind}",state="{state}"}} {count}' for kind, state, count in counts]
    return ("\n".join(lines) + "\n").encode()


def gauge(name: str, meaning: str, value: int) -> bytes:
    """Return a number in Prometheus' text format."""
    return f"# HELP {name} {meaning}\n# TYPE {name} gauge\n{name} {value}\n".encode()

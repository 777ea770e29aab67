"""Routes about the server itself: health, metrics, the description of the API."""

import hmac
import shutil
from collections.abc import Callable

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

import registry
from registry.server.edge.admission import Route, allow, bearer_token
from registry.server.edge.context import Context, ContextDep, get_context
from registry.server.errors import RESPONSES
from registry.services.composing import holding
from registry.services.operating import measures
from registry.services.operating.measures import Measure, single
from registry.settings import Settings

DAY = 86400.0  # seconds
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
    """Return what operators watch, from requests to workers, blobs and webhooks, in Prometheus' text format.

    Also with REGISTRY_METRICS_TOKEN.
    """
    with ctx.database.read() as session:
        measured = ctx.measures.get(session)
    return Response(
        request.app.state.metrics.render(map(family, [*measured, *of_disk(ctx)])), media_type=CONTENT_TYPE_LATEST
    )


@router.get("/openapi.json", include_in_schema=False)
@allow("server.read")
def description(request: Request) -> JSONResponse:
    """Describe the API in OpenAPI's terms."""
    return JSONResponse(request.app.openapi())


router.include_router(scraped)


def measuring(settings: Settings) -> Callable[[Session], list[Measure]]:
    """Return what reads the measures of a registry from its database, and the bounds that settings give them."""

    def read(session: Session) -> list[Measure]:
        least = settings.bucket_least if settings.copies else None
        return [
            *measures.read(session, quota_bytes=settings.quota_bytes, bucket_least=least),
            single("registry_held_bytes", "Bytes of compositions on disk", holding.held_bytes(session)),
            single("registry_held_limit_bytes", "Most bytes of compositions on disk", settings.composed_bytes),
            single("registry_scrub_period_seconds", "Time within which blobs are read", settings.scrub_days * DAY),
        ]

    return read


def of_disk(ctx: Context) -> list[Measure]:
    """Return how large the disk of the data folder is, what is free of it, and which version runs."""
    usage = shutil.disk_usage(ctx.store.root)
    room = "Bytes of it that uploads, caches and compositions may take: what is free, without the reserve"
    return [
        single("registry_disk_bytes", "Bytes of the disk of the data folder", usage.total),
        single("registry_disk_free_bytes", "Bytes of it that are free", usage.free),
        single("registry_disk_room_bytes", room, ctx.store.room()),
        Measure("registry_build_info", "The version that runs", {(registry.version(),): 1}, ("version",)),
    ]


def family(measure: Measure) -> Metric:
    """Return a measure as Prometheus' library knows it."""
    made = GaugeMetricFamily(measure.name, measure.meaning, labels=measure.labels)
    for labels, value in measure.values.items():
        made.add_metric(labels, value)
    return made

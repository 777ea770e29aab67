"""The app: the one place where the parts of the server are joined."""

from datetime import timedelta
from pathlib import Path

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

import registry
from registry.db.session import open_database, require_head
from registry.files.threads import processors
from registry.server import errors, pages, routing
from registry.server.api import (
    admin,
    channels,
    conflicts,
    feed,
    jobs,
    models,
    patches,
    people,
    releases,
    reviews,
    uploads,
    webhooks,
)
from registry.server.api.accounts import joining, mail, news, publishers, sessions
from registry.server.api.mirrors import exporting
from registry.server.composers import Composers
from registry.server.edge import monitoring
from registry.server.edge.context import Context
from registry.server.edge.counts import Kept, Readings
from registry.server.edge.downloads import Gate
from registry.server.edge.limits import Rate, open_storage
from registry.server.edge.middleware import Edge
from registry.server.edge.providers import Providers
from registry.server.hub import discussions, lfs, pushing, refusing, repositories, resolving
from registry.server.hub.browsers import Browsers
from registry.server.hub.route import RawPath
from registry.server.pages.queue.jobs import AT_ONCE
from registry.server.processes.metrics import Metrics
from registry.server.processes.sharing import Shared
from registry.server.threads import Threads
from registry.services.blobs.stores import open_store
from registry.services.blobs.uploads import UploadLimits
from registry.services.composing import holding
from registry.services.operating import summaries
from registry.services.queue.limits import JobLimits
from registry.settings import Settings
from registry.storage.bucket import open_bucket

BUCKET_SECONDS = 2.0  # that a reader waits for a file from the bucket
HASHING = 2  # uploads hashed at a time by a process, each in a thread of its own
ASKING = 4  # threads that wait for PostgreSQL side by side; with SQLite, which is in this process, one is fastest
COMPOSED_AT_ONCE, COMPOSED_EACH = 128, 32  # files composed while they are sent, by all processes; and to one caller
MOST_COMPOSERS = 8  # processes that compose for the readers of one process of the server
KEEPING = 16  # parts sent on to a bucket at a time by a process, which may be slow to take them
PARSING = 2  # request bodies parsed at a time by a process, likewise
DESCRIPTION = """
Sparse patches of fine-tuned models, and any subset of them composed into a model, bit for bit the same everywhere.
Errors are RFC 9457 problem details. Send `Authorization: Bearer <token>`; public models can be read without a token.
"""


def open_shared(settings: Settings, processes: int = 1, folder: Path | None = None) -> Shared:
    """Return what the processes of a server share; several need a folder for its files."""
    return Shared(settings.downloads_at_once, COMPOSED_AT_ONCE, AT_ONCE, processes, folder)


def create_app(settings: Settings, shared: Shared | None = None) -> FastAPI:
    """Return the app for a data folder and a database that is at the newest migration.

    Args:
        settings: The settings.
        shared: What this process shares with others of its server; None if it is alone.

    Raises:
        WrongState: The database is at another migration.
        InvalidRequest: A setting of rates, of their storage or of the bucket is not valid.
    """
    database = open_database(settings.database)
    bucket = open_bucket(settings.bucket, **settings.bucket_access)
    store = open_store(database, **settings.storage, bucket=bucket, patience=BUCKET_SECONDS)
    require_head(database, settings.database)
    store.prepare()
    app = FastAPI(
        title="Breadcrumb registry",
        version=registry.version(),
        description=DESCRIPTION,
        openapi_url=None,  # our own routes describe the API
        telemetry={"tracing": False, "metrics": False, "logs": False},  # /metrics and our log say what is to be known
        generate_unique_id_function=lambda route: f"{route.tags[0] if route.tags else 'system'}_{route.name}",
    )
    limits = UploadLimits(
        upload_bytes=settings.upload_bytes,
        quota_bytes=settings.quota_bytes,
        quota_uploads=settings.quota_uploads,
        part_bytes=settings.part_bytes,
        lifetime=timedelta(hours=settings.upload_hours),
    )
    shared = shared or open_shared(settings)
    storage = open_storage(settings.limits_storage, shared.counters)
    app.state.context = Context(
        settings,
        database,
        store,
        limits,
        CapacityLimiter(HASHING),
        CapacityLimiter(PARSING),
        CapacityLimiter(KEEPING),
        Rate("token", settings.rate_token, storage),
        Gate(shared.downloads, settings.downloads_each),
        open_bucket(settings.copies, **settings.bucket_access),
        Kept(summaries.summary, settings.counts_seconds),
        Kept(monitoring.measuring(settings), settings.counts_seconds),
        JobLimits(settings.user_jobs, settings.model_jobs),
        Threads(ASKING if database.engine.dialect.name == "postgresql" else 1),
        Composers(min(MOST_COMPOSERS, processors()), settings.job_memory),
        Gate(shared.composing, COMPOSED_EACH),
        Readings(holding.RENEWED.total_seconds()),
        Rate("strangers", settings.rate_strangers, storage),
        Rate("asking", settings.rate_asking, storage),
        Providers(settings),
    )
    app.state.metrics = Metrics(shared.folder, str(shared.process))
    app.state.health = Kept(monitoring.probe, monitoring.HEALTH_SECONDS)
    app.add_middleware(Browsers, routes=app.router.routes)
    app.add_middleware(RawPath)
    app.add_middleware(
        Edge,
        metrics=app.state.metrics,
        address_rate=Rate("address", settings.rate_address, storage),
        body_seconds=settings.body_seconds,
        body_rate=settings.body_rate,
        encrypted=settings.public_url.startswith("https://"),
    )
    errors.install(app)
    for module in (
        people,
        joining,
        sessions,
        news,
        mail,
        models,
        patches,
        conflicts,
        reviews,
        releases,
        channels,
        uploads,
        webhooks,
        publishers,
        feed,
        exporting,
        jobs,
        monitoring,
        admin,
    ):
        app.include_router(module.router, dependencies=[Depends(HTTPBearer(auto_error=False))])
    for router in (repositories.router, resolving.router, pushing.router, lfs.router, lfs.parts, discussions.router):
        app.include_router(router)
    app.include_router(refusing.router)  # takes what is left
    pages.install(app, shared.streams)
    routing.install(app)
    return app


def close_app(app: FastAPI) -> None:
    """Close the database connections of an app, and end the processes that compose for its readers."""
    ctx: Context = app.state.context
    ctx.composers.close()
    ctx.database.engine.dispose()

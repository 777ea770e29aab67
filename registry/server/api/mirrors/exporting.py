"""Routes for registries that mirror this one: its models part by part, in bounded pages, and the files of these."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from registry import schemas
from registry.server.edge.admission import Route, VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName
from registry.server.errors import RESPONSES
from registry.server.sending.files import send_blob
from registry.server.views.mirrors import exporting as views
from registry.services.catalog import models as model_service

router = APIRouter(prefix="/api/v1", tags=["mirroring"], route_class=Route, responses=RESPONSES)
Serial = Annotated[int, Query(ge=0, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=1000)]
PartName = Annotated[str, Query(max_length=300)]
PartCursor = Annotated[str | None, Query(max_length=300)]
Skip = Annotated[int, Query(ge=0, le=2**31 - 1)]


@router.get("/mirror")
@allow("server.read")
def head(ctx: ContextDep, at: Serial = 0) -> schemas.MirrorHead:
    """Show which registry this is, the newest event of its log, and the hash of the event with a serial."""
    with ctx.database.read() as session:
        return views.head(session, at)


@router.get("/mirror/models")
@allow("server.read")
def models(
    actor: VisitorDep, ctx: ContextDep, after: uuid.UUID | None = None, limit: Limit = 1000
) -> schemas.MirrorModelPage:
    """List the models with a base that you may see, in the order of their keys."""
    with ctx.database.read() as session:
        return views.models(session, actor, after, limit)


@router.get("/models/{namespace}/{name}/mirror/parts")
@allow("model.read")
def parts(name: ModelName, ctx: ContextDep, after: PartCursor = None, limit: Limit = 1000) -> schemas.MirrorPartPage:
    """List the parts of a model, in the order in which a mirror takes them over."""
    with ctx.database.read() as session:
        return views.parts(session, model_service.ready(session, name), after, limit)


@router.get("/models/{namespace}/{name}/mirror/rows")
@allow("model.read")
def rows(name: ModelName, ctx: ContextDep, part: PartName = "model", skip: Skip = 0) -> schemas.MirrorRowPage:
    """Return the rows of a part of a model, and which files they name."""
    with ctx.database.read() as session:
        return views.rows(session, model_service.ready(session, name), part, skip)


@router.get("/models/{namespace}/{name}/mirror/files/{sha256}", response_class=Response)
@allow("model.read")
def file(name: ModelName, sha256: schemas.Hex256, request: Request, ctx: ContextDep) -> Response:
    """Download a file that rows of a model name."""
    with ctx.database.read() as session:
        blob = views.blob(session, model_service.ready(session, name), sha256)
    return send_blob(request, ctx, blob, sha256, immutable=False, cached="private")

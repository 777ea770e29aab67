"""Errors as answers: one table from error class to status, and RFC 9457 problem details."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from starlette.exceptions import HTTPException

from registry import errors
from registry.db.session import is_full, is_read_only
from registry.schemas import Problem

log = structlog.get_logger()
STATUS: dict[type[errors.BreadcrumbError], int] = {
    errors.InvalidInput: 422,
    errors.InvalidRequest: 422,
    errors.InvalidCheckpoint: 422,
    errors.CheckpointMismatch: 422,
    errors.InvalidPatch: 422,
    errors.InvalidRecipe: 422,
    errors.BaseMismatch: 422,
    errors.DigestMismatch: 422,
    errors.TooLarge: 413,
    errors.RangeNotSatisfiable: 416,
    errors.PreconditionFailed: 412,
    errors.NotFound: 404,
    errors.RevisionNotFound: 404,
    errors.NotComposed: 404,
    errors.EntryNotFound: 404,
    errors.NotCompared: 409,
    errors.HistoryChanged: 409,
    errors.WrongState: 409,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.TooMany: 429,
    errors.TimedOut: 408,
    errors.NotFinite: 422,
    errors.JobFailed: 500,
    errors.JobCancelled: 409,
    errors.StorageFull: 507,
    errors.StorageFailed: 500,
    errors.BlobDamaged: 500,
    errors.TooManyFiles: 503,
    errors.MissingExtra: 500,
    errors.Unavailable: 503,
    errors.BreadcrumbError: 500,
}
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}
PROBLEM_JSON = "application/problem+json"
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "Refused", "content": {PROBLEM_JSON: {"schema": Problem.model_json_schema()}}}
}


def problem(
    request_id: str,
    status: int,
    slug: str,
    detail: str,
    field: str | None = None,
    extra: dict[str, str] | None = None,
    job: str | None = None,
) -> JSONResponse:
    """Return a problem+json answer."""
    body = Problem(
        type=f"urn:breadcrumb:problem:{slug}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request_id,
        field=field,
        job=job,
    )
    return JSONResponse(
        body.model_dump(exclude=None if job else {"job"}),
        status,
        headers={**HEADERS.get(status, {}), **(extra or {})},
        media_type=PROBLEM_JSON,
    )


def install(app: FastAPI) -> None:
    """Make an app answer every error of a route with problem details."""

    @app.exception_handler(errors.BreadcrumbError)
    async def known(request: Request, error: errors.BreadcrumbError) -> JSONResponse:
        extra: dict[str, str] = {}
        if isinstance(error, errors.RangeNotSatisfiable):
            extra = {"Content-Range": f"bytes */{error.size}"}
        if isinstance(error, errors.TooMany):
            extra = {"Retry-After": str(error.retry_after), **getattr(request.state, "rate_headers", {})}
        job = error.job if isinstance(error, errors.NotCompared) else None
        status = STATUS[type(error)]
        return problem(request.state.request_id, status, error.slug, error.message, error.field, extra, job)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"]]
        field = ".".join(where[1:]) or where[0]
        detail = f"{field}: {first['msg']}."
        return problem(request.state.request_id, 422, errors.InvalidRequest.slug, detail, field)

    @app.exception_handler(HTTPException)
    async def routing(request: Request, error: HTTPException) -> JSONResponse:
        status = error.status_code
        slug = HTTPStatus(status).phrase.lower().replace(" ", "-")
        detail = f"{request.method} {request.url.path}: {error.detail}."
        return problem(request.state.request_id, status, slug, detail, extra=dict(error.headers or {}))

    @app.exception_handler(DBAPIError)
    async def database_failed(request: Request, error: DBAPIError) -> JSONResponse:
        log.error("database.error", error=str(error.orig), request_id=request.state.request_id)
        if is_read_only(error):
            detail = (
                "The registry can be read, but not written now: its disk is read-only; its operator must see to it."
            )
        elif is_full(error):
            detail = "The disk of the database is full, or fails; its operator must free space, or look at the disk."
            return problem(request.state.request_id, 507, errors.StorageFull.slug, detail)
        elif isinstance(error, OperationalError):
            detail = "The database does not answer; try again in a moment."
        else:
            raise error
        return problem(request.state.request_id, 503, errors.Unavailable.slug, detail)

    @app.exception_handler(IntegrityError)
    async def collided(request: Request, error: IntegrityError) -> JSONResponse:
        if "foreign key" in str(error.orig).lower():
            detail = "Something that this request refers to was deleted at the same moment; send the request again."
            return problem(request.state.request_id, 503, errors.Unavailable.slug, detail)
        detail = "Somebody else changed the same thing at the same moment; look at it, and try again."
        return problem(request.state.request_id, 409, errors.WrongState.slug, detail)

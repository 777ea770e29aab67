"""Sending a file of a revision: from our disk, or by saying where else it is; and counting downloads."""

from collections.abc import Mapping
from contextlib import suppress

from fastapi import Request, Response
from sqlalchemy.exc import DBAPIError

from registry.db.tables import Blob, Model
from registry.outside.hub import file_url
from registry.server.edge.deps import Context
from registry.server.edge.downloads import serve
from registry.services.composing import snapshots
from registry.services.composing.snapshots import Snapshot
from registry.services.hub import downloads


def send(
    request: Request,
    ctx: Context,
    model: Model,
    snapshot: Snapshot,
    path: str,
    *,
    immutable: bool,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a file of a revision.

    Args:
        request: Whose Range and conditions count.
        made: What the app is made of.
        model: Whose revision it is.
        found: The revision.
        path: The file's, in the revision.
        immutable: Whether the address that was asked for has these bytes for ever.
        headers: What else the answer says.

    Raises:
        EntryNotFound: there is no such file.
        RangeNotSatisfiable, StorageFailed, TooMany: as `serve` says.
    """
    blob = snapshots.find_file(snapshot, path)
    response = serve(
        request,
        ctx.store,
        ctx.gate,
        blob.sha256,
        blob.size,
        path,
        immutable=immutable,
        cached="public" if model.visibility == "public" else "private",
        location=locate(ctx, model, blob, path),
        headers=headers,
    )
    whole = request.method == "GET" and "range" not in request.headers and response.status_code in (200, 302)
    if whole and downloads.is_counted(snapshot, path):
        with suppress(DBAPIError), ctx.database.write() as session:  # reading must not depend on writing
            downloads.count(session, model.id)
    return response


def locate(ctx: Context, model: Model, blob: Blob, path: str) -> str | None:
    """Return the address that has a file's bytes in our place: the Hub's, or a bucket's for a while; else None."""
    settings = ctx.settings
    if blob.state == "remote" and model.source is not None:
        return file_url(settings.hub_endpoint, model.source, path)
    if ctx.bucket is not None and blob.bucketed_at is not None:
        return ctx.bucket.url(blob.sha256, path, settings.bucket_seconds)
    return None

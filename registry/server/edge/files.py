"""Downloads of a snapshot's files: sent from this server's disk or redirected, and counted."""

from collections.abc import Mapping
from contextlib import suppress

from fastapi import Request, Response
from sqlalchemy.exc import DBAPIError

from registry.db.tables import Blob, Model
from registry.outside.hub import file_url
from registry.server.edge.context import Context
from registry.server.edge.downloads import serve
from registry.services.composing import snapshots
from registry.services.composing.snapshots import Snapshot
from registry.services.hub import downloads
from registry.storage.store import damaged


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
    """Answer with a file of a snapshot.

    Args:
        request: The request, for its Range and conditions.
        ctx: The parts of the app.
        model: The model.
        snapshot: The snapshot that holds the file.
        path: The path of the file in the snapshot.
        immutable: Whether the requested address has these bytes for ever.
        headers: More headers for the answer.

    Raises:
        EntryNotFound: The snapshot has no such file.
        PreconditionFailed, RangeNotSatisfiable, BlobDamaged, TooMany: As for `send_blob`.
    """
    blob = snapshots.find_file(snapshot, path)
    response = send_blob(
        request,
        ctx,
        blob,
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


def send_blob(
    request: Request,
    ctx: Context,
    blob: Blob,
    filename: str,
    *,
    immutable: bool,
    cached: str,
    location: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a blob, unless its row says that it is damaged here; see `serve`.

    Raises:
        BlobDamaged: The blob is damaged, and there is no `location` where it is sound.
        RangeNotSatisfiable, TooMany: As for `serve`.
    """
    if location is None and blob.damaged_at is not None:
        raise damaged(blob.sha256)
    named = (ctx.store, ctx.gate, blob.sha256, blob.size, filename)
    return serve(request, *named, immutable=immutable, cached=cached, location=location, headers=headers)


def locate(ctx: Context, model: Model, blob: Blob, path: str) -> str | None:
    """Return where else a file's bytes are: at the Hub, or for a while in a bucket; None if only on this server."""
    settings = ctx.settings
    if blob.state == "remote" and model.source is not None:
        return file_url(settings.hub_endpoint, model.source, path)
    if ctx.bucket is not None and blob.bucketed_at is not None:
        return ctx.bucket.url(blob.sha256, path, settings.bucket_seconds)
    return None

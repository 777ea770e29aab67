"""Files: blobs and files of snapshots, sent from this disk or by the proxy in front of it, redirected, or composed.

One byte range, a strong ETag, Repr-Digest (RFC 9530) and immutable caching; downloads of snapshots are counted.
"""

from collections.abc import Mapping
from contextlib import suppress

from fastapi import Request, Response
from sqlalchemy.exc import DBAPIError
from starlette.background import BackgroundTask

from registry.db.tables import STORED, Blob
from registry.errors import BlobDamaged, StorageFailed
from registry.files.folders import is_weights
from registry.outside.hub import file_url
from registry.server.edge.admission import note_damage
from registry.server.edge.context import Context
from registry.server.edge.downloads import BlobResponse, name_caller
from registry.server.sending.asked import negotiate
from registry.server.sending.sources import compose_blob
from registry.services.composing import holding, snapshots
from registry.services.composing.snapshots import File, Snapshot
from registry.services.hub import downloads
from registry.services.people.access import AnyModel
from registry.settings import Settings
from registry.storage.store import damaged

DECIDED_HERE = {"if-match", "if-modified-since", "if-unmodified-since"}


def send(
    request: Request,
    ctx: Context,
    model: AnyModel,
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
    blob, cached = snapshots.find_file(snapshot, path), "public" if model.visibility == "public" else "private"
    composed = snapshot.recipe_digest is not None and is_weights(path)
    elsewhere = blob.state == "remote" and composed and not is_of_base(ctx, model, blob)
    location, response, flaw = None if elsewhere else locate(ctx, model, blob, path), None, None
    if location is not None or not composed or blob.state in STORED:
        try:
            response = send_blob(
                request, ctx, blob, path, immutable=immutable, cached=cached, location=location, headers=headers
            )
        except BlobDamaged as why:  # or let go of at this moment
            if not composed:
                raise
            flaw = BackgroundTask(note_damage, request, why)
    if composed and request.method == "GET":
        request.app.state.metrics.reads.labels("composed" if response is None else "disk").inc()
    if response is None:
        response = compose_blob(
            request, ctx, model, snapshot, blob, immutable=immutable, cached=cached, headers=headers
        )
        response.background = flaw
    if request.method == "GET" and response.status_code in (200, 206, 302):
        note_reading(ctx, model, snapshot, path, whole="range" not in request.headers)
    return response


def note_reading(ctx: Context, model: AnyModel, snapshot: Snapshot, path: str, *, whole: bool) -> None:
    """Count a download if the file stands for one, and keep in mind that a composition is in use."""
    digest = snapshot.recipe_digest
    used = digest if digest is not None and ctx.readings.use((model.id, digest)) else None
    counted = whole and downloads.is_counted(snapshot, path)
    if used is None and not counted:
        return
    with suppress(DBAPIError), ctx.database.write() as session:  # reading must not depend on writing
        if counted:
            downloads.count(session, model.id)
        if used is not None:
            holding.use(session, model.id, used)


def send_blob(
    request: Request,
    ctx: Context,
    blob: Blob | File,
    filename: str,
    *,
    immutable: bool,
    cached: str,
    location: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Answer with a blob or a range of it, with 304 if the client has it, or with a redirect to it.

    Several ranges, and malformed ones, are answered with the whole (RFC 9110 section 14.2 leaves that free).

    Args:
        request: The request, for its Range and conditions.
        ctx: The parts of the app.
        blob: What is known of the blob.
        filename: The name that the file is saved under.
        immutable: Whether this address has these bytes for ever.
        cached: `public`, or `private` if a shared cache must not serve the blob to others.
        location: An address that serves the blob instead; the answer is then a 302 with the Hub's headers.
        headers: More headers for the answer.

    Raises:
        PreconditionFailed: The client asked for another version than this one.
        RangeNotSatisfiable: The range starts after the end.
        BlobDamaged: The blob is damaged, missing or of another size, and there is no `location` where it is sound.
        TooMany: Too many files are being sent.
    """
    size, etag = blob.size, f'"{blob.sha256}"'
    if location is not None:
        linked = {
            "Location": location,
            "X-Linked-Etag": etag,
            "X-Linked-Size": str(size),
            "Cache-Control": "no-store",
        }
        return Response(status_code=302, headers={**(headers or {}), **linked})
    if blob.damaged_at is not None:
        raise damaged(blob.sha256)
    ctx.store.bring(blob.sha256)
    path = ctx.store.path(blob.sha256)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise damaged(blob.sha256) from None
    if status.st_size != size:
        ctx.store.distrust(blob.sha256)
        raise damaged(blob.sha256)
    asked = negotiate(request, blob, filename, immutable=immutable, cached=cached, headers=headers)
    if isinstance(asked, Response):
        return asked
    agreed = asked.span is not None or "range" not in request.headers
    decided = {b"if-range"} if asked.span else {b"if-range", b"range"}  # above, and not once more by starlette
    request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] not in decided]
    name = filename.rpartition("/")[2]
    response = BlobResponse(
        path, headers=asked.headers, media_type="application/octet-stream", filename=name, stat_result=status
    )
    if agreed and ctx.store.kind == "disk" and may_hand_over(request, ctx.settings):
        return hand_over(response, f"{ctx.settings.accel}/{path.relative_to(ctx.store.root / 'blobs')}")
    response.gate, response.caller = ctx.gate, name_caller(request)
    if request.method != "HEAD":
        ctx.gate.require_room(response.caller)
    return response


def may_hand_over(request: Request, settings: Settings) -> bool:
    """Return whether a proxy may send a file: one that we trust, and that would decide on nothing.

    nginx does not know our entity tags, so it would answer requests with these conditions otherwise than we do.
    """
    # uvicorn knows no port of a client that a trusted proxy speaks for; one that is connected to us has a port.
    forwarded = request.client is not None and request.client.port == 0
    return bool(settings.accel) and forwarded and request.method == "GET" and not DECIDED_HERE & {*request.headers}


def hand_over(response: BlobResponse, location: str) -> Response:
    """Return an answer without a body that tells nginx to send a file of an internal location in its place."""
    kept = {name: value for name, value in response.headers.items() if name not in ("content-length", "accept-ranges")}
    return Response(headers={**kept, "X-Accel-Redirect": location})


def is_of_base(ctx: Context, model: AnyModel, file: File) -> bool:
    """Return whether a file of a composition is the base's, so that the Hub has it where the base came from."""
    with ctx.database.read() as session:
        base = snapshots.list_files(session, snapshots.BASE_FILES, model.id)
    return (file.path, file.sha256) in {(other.path, other.sha256) for other in base}


def locate(ctx: Context, model: AnyModel, blob: File, path: str) -> str | None:
    """Return where else a file's bytes are: at the Hub, or for a while in a bucket; None if only on this server."""
    settings = ctx.settings
    if blob.state == "remote" and model.source is not None:
        return file_url(settings.hub_endpoint, model.source, path)
    if ctx.bucket is not None and blob.bucketed_at is not None:
        with suppress(StorageFailed):  # there is no key to sign with now, and this disk has the file, too
            return ctx.bucket.url(blob.sha256, path, settings.bucket_seconds)
    if blob.state in STORED and blob.size >= settings.bucket_least and blob.damaged_at is None:
        return ctx.store.lend(blob.sha256, path, settings.bucket_seconds)
    return None

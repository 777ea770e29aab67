"""Sources: what the weights of a composition are composed from when they are read, and what comes of it."""

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote
from uuid import UUID

import structlog
from fastapi import Request, Response
from sqlalchemy.exc import DBAPIError

from registry.errors import RevisionNotFound, TooMany
from registry.files.folders import concerns_weights
from registry.server.composers import Source
from registry.server.edge.context import Context
from registry.server.edge.downloads import name_caller
from registry.server.processes.metrics import Metrics
from registry.server.sending.asked import negotiate
from registry.server.sending.composed import ComposedResponse, Wanted
from registry.services.blobs import blobs, damage
from registry.services.composing import compositions, holding
from registry.services.composing.snapshots import File, Snapshot
from registry.services.people.access import AnyModel
from registry.storage.cache import Cache

log = structlog.get_logger()
EXAMINING = threading.Lock()
USED_SECONDS = 60.0  # how exact the time is at which a copy was used
FETCHING_SECONDS = 10  # after which a client asks again for what waits for the Hub


def compose_blob(
    request: Request,
    ctx: Context,
    model: AnyModel,
    snapshot: Snapshot,
    file: File,
    *,
    immutable: bool,
    cached: str,
    headers: Mapping[str, str] | None,
) -> Response:
    """Answer with a weight file of a composition, or a range of it, that is composed while it is sent.

    Raises:
        PreconditionFailed, RangeNotSatisfiable: As for `send_blob`.
        TooMany: Too many files are being composed; or the base has to be fetched from the Hub first.
    """
    asked = negotiate(request, file, file.path, immutable=immutable, cached=cached, headers=headers)
    if isinstance(asked, Response):
        return asked
    named = asked.headers | {"Content-Disposition": disposition(file.path)}
    start, stop = asked.span or (0, file.size)
    if request.method == "HEAD":
        told = named | {"Content-Length": str(file.size), "Accept-Ranges": "bytes"}
        return Response(headers=told, media_type="application/octet-stream")
    key, source = find_source(ctx, model, snapshot)
    metrics, caller = request.app.state.metrics, name_caller(request)

    def ended(count: int, right: bool | None) -> None:
        metrics.composed.inc(count)
        if right is None and ctx.readings.add((key, file.path), count, file.size):
            right = True  # of ranges that were as much as the whole file, as far as the count goes
        if right is not None:
            account(ctx, key, source, file, metrics, right=right)

    ctx.composing.require_room(caller)
    wanted = Wanted(source, file.path, file.size, file.sha256, start, stop, asked.span is not None)
    return ComposedResponse(wanted, ctx.composers, ctx.composing, caller, named, ended)


def find_source(ctx: Context, model: AnyModel, snapshot: Snapshot) -> tuple[UUID, Source]:
    """Return the key of a composition, and where on this disk the files are that it is made of.

    Raises:
        BlobDamaged: Something that it is made of is marked as damaged.
        TooMany: The base is at the Hub and a job fetches it, or all is in a bucket and comes from there.
    """
    assert snapshot.recipe_digest is not None
    cache = Cache(ctx.store)
    with ctx.database.read() as session:
        found = holding.ingredients(session, model.id, snapshot.recipe_digest)
        if found is None:
            raise RevisionNotFound(f"The recipe {snapshot.recipe_digest[:12]} is no longer composed; compose it again.")
        recipe = compositions.to_recipe(found.recipe)
        needed = [file for file in found.base if concerns_weights(file.path)]
        used = [item.sha256 for item in recipe.items]
        damage.refuse_marked(session, [file.sha256 for file in needed] + used)
    base = {file.path: str(cache.locate(file.sha256)) for file in needed}
    if any(file.state == "remote" and not Path(base[file.path]).is_file() for file in needed):
        raise have_held(ctx, found.composition, f"The base of {model.full_name} is being fetched from the Hub")
    local = [file.sha256 for file in needed if file.state != "remote"] + used
    if ctx.store.to_fetch(local):
        waiting = f"What this file of {model.full_name} is composed of is being fetched"
        with ctx.database.read() as session:
            sizes = blobs.sizes_of(session, local)
        if not ctx.store.begin_to_fetch(sizes):
            raise have_held(ctx, found.composition, waiting)
        raise wait(waiting)
    patches = {sha256: str(ctx.store.path(sha256)) for sha256 in used}
    for path in (*base.values(), *patches.values()):
        if Path(path).parent == cache.folder:
            with suppress(OSError):  # gone, or another user's
                if time.time() - Path(path).stat().st_mtime > USED_SECONDS:
                    os.utime(path)  # of what is used least recently, the cache lets go
    named = {"base": recipe.base, "alpha": recipe.alpha, "items": recipe.items, "method": recipe.method}
    seen = [file.stat() for file in map(Path, (*base.values(), *patches.values())) if file.is_file()]
    key = " ".join([str(found.composition), *(f"{status.st_ino}.{status.st_mtime_ns}" for status in seen)])
    return found.composition, Source(key, base, patches, named)  # a file that was repaired is another one


def wait(missing: str) -> TooMany:
    """Return the error that has a client ask again in a moment."""
    return TooMany(f"{missing}; try again in a moment.", retry_after=FETCHING_SECONDS)


def have_held(ctx: Context, composition: UUID, missing: str) -> TooMany:
    """Ask for a worker that fetches what a composition is made of, or composes it; return what `wait` does."""
    with ctx.database.write() as session:
        holding.hold(session, composition, again=True)
    return wait(missing)


def account(ctx: Context, key: UUID, source: Source, file: File, metrics: Metrics, *, right: bool) -> None:
    """Count a file that was composed for a reader; if it had other bytes than before, find out why."""
    with suppress(DBAPIError):  # reading must not depend on writing
        if right:
            with ctx.database.write() as session:
                often = holding.count_read(session, key)
            if often:
                with ctx.database.write() as session:
                    holding.hold(session, key)
            return
        with ctx.database.write() as session:
            holding.doubt(session, key)
    metrics.mismatches.inc()
    log.error("composed.mismatch", path=file.path, sha256=file.sha256, composition=str(key))
    if EXAMINING.acquire(blocking=False):  # hashing takes long, and who asks again and again must not take all threads
        try:
            for path in (*source.base.values(), *source.patches.values()):
                damage.note(ctx.database, ctx.store, Path(path).name)
        finally:
            EXAMINING.release()


def disposition(path: str) -> str:
    """Return the header by which a file is saved under its name."""
    name = path.rpartition("/")[2]
    return f'attachment; filename="{name}"' if quote(name) == name else f"attachment; filename*=utf-8''{quote(name)}"

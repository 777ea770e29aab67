"""Routes by which the Hub's tools send large files: Git LFS, with the multipart transfer that the Hub added to it.

    batch ──> for each file: nothing to send, or the addresses of its parts ──> PUT each ──> verify

The parts become those of upload sessions, with the same quotas and rules. The tools send them without a token, so the
address is what lets them: it has the id of the session, which only its owner was told, and which takes no other bytes
than those that were announced. Source: github.com/git-lfs/git-lfs, docs/api/batch.md.
"""

import re
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from registry.db.tables import UploadSession
from registry.errors import InvalidRequest, TooLarge, TooMany, WrongState
from registry.files.names import HEX256
from registry.server import receiving
from registry.server.edge.admission import ActorDep, Route, allow
from registry.server.edge.bodies import load_json, parse_body
from registry.server.edge.context import Context, ContextDep, PublicUrl
from registry.server.errors import STATUS
from registry.server.hub.route import PushRoute
from registry.services.blobs import uploads
from registry.services.catalog import models
from registry.services.people import access
from registry.services.people.actors import Actor

router = APIRouter(tags=["hub"], route_class=PushRoute, include_in_schema=False)
parts = APIRouter(tags=["hub"], route_class=Route, include_in_schema=False)
LFS = "application/vnd.git-lfs+json"
MOST_OBJECTS = 1000  # of one batch; the Hub's tools send 256
OBJECTS = "/{namespace}/{name}.git/info/lfs/objects"
PART = "/api/lfs/{upload_id}"
Announced = tuple[str, int]


@router.post(OBJECTS + "/batch")
@allow("name.push")
async def batch(
    namespace: str, name: str, request: Request, actor: ActorDep, ctx: ContextDep, here: PublicUrl
) -> Response:
    """Announce files, and say where each part of them is to be sent; nothing to send is said by leaving that out."""
    wanted = await parse_body(request, read_batch)
    objects = await run_in_threadpool(announce, ctx, actor, f"{namespace}/{name}", wanted, here)
    return JSONResponse({"objects": objects, "hash_algo": "sha256"}, media_type=LFS)


@router.post(OBJECTS + "/verify")
@allow("name.push")
async def verify(namespace: str, name: str, request: Request, actor: ActorDep, ctx: ContextDep) -> Response:
    """Hash a file whose parts were sent, and store it."""
    (sha256, _), *_ = await parse_body(request, lambda raw: read_objects([load_json(raw)]))
    await complete_all(ctx, actor, [sha256])
    return JSONResponse({}, media_type=LFS)


@parts.put(PART + "/parts/{number}")
@allow("upload.part")
async def put_part(upload_id: uuid.UUID, number: int, request: Request, ctx: ContextDep) -> Response:
    """Take part `number` of a file, counted from 1; the answer means that it is durable. Safe to repeat."""
    length = request.headers.get("content-length")
    if length is not None and not re.fullmatch(r"[0-9]{1,18}", length):
        raise InvalidRequest("The header 'Content-Length' is not a number.", field="Content-Length")
    announced = None if length is None else int(length)
    part = await receiving.receive_part(request, ctx, None, upload_id, number - 1, announced, None)
    return Response(headers={"ETag": f'"{part.sha256}"'})


@parts.post(PART + "/complete")
@allow("upload.part")
def complete(upload_id: uuid.UUID, ctx: ContextDep) -> Response:
    """Answer a tool that has sent all parts; they are hashed when it has them verified, or commits the file."""
    with ctx.database.read() as session:
        if missing := uploads.missing_parts(uploads.find(session, None, upload_id)):
            raise WrongState(f"{len(missing)} parts are missing, the first is {missing[0] + 1}; send them first.")
    return JSONResponse({}, media_type=LFS)


def read_batch(raw: bytes) -> list[Announced]:
    """Return sha256 and size of each file of a batch.

    Raises:
        InvalidRequest: The body is no batch of uploads, or has too many files.
    """
    given = load_json(raw)
    if not isinstance(given, dict) or given.get("operation") != "upload":
        raise InvalidRequest("Git LFS takes uploads alone here; download with `hf download`.", field="operation")
    return read_objects(given.get("objects"))


def read_objects(given: Any) -> list[Announced]:
    """Return sha256 and size of each of some objects.

    Raises:
        InvalidRequest: They are not a list of such objects, or too many.
    """
    if not isinstance(given, list) or not 0 < len(given) <= MOST_OBJECTS:
        raise InvalidRequest(f"`objects` must be a list of 1 to {MOST_OBJECTS} objects.", field="objects")
    wanted = []
    for one in given:
        oid, size = (one.get("oid"), one.get("size")) if isinstance(one, dict) else (None, None)
        if not isinstance(oid, str) or not re.fullmatch(HEX256, oid):
            raise InvalidRequest("An `oid` is the sha256 of a file, 64 lowercase hex digits.", field="oid")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
            raise InvalidRequest("A `size` is a number of bytes.", field="size")
        wanted.append((oid, size))
    return wanted


def announce(ctx: Context, actor: Actor, full_name: str, wanted: list[Announced], here: str) -> list[dict[str, Any]]:
    """Announce files as uploads, each alone; return what the tool is to do for each."""
    with ctx.database.read() as session:
        space = payer(session, actor, full_name)
    found = []
    for sha256, size in wanted:
        said: dict[str, Any] = {"oid": sha256, "size": size}
        try:
            with ctx.database.write() as session:
                upload = uploads.announce(session, ctx.store, actor, sha256, size, ctx.upload_limits, space)
                said |= actions(upload, f"{here}/{full_name}.git/info/lfs/objects/verify", here)
        except (TooLarge, TooMany, WrongState, InvalidRequest) as why:
            said["error"] = {"code": STATUS[type(why)], "message": why.message}
        found.append(said)
    return found


def payer(session: Session, actor: Actor, full_name: str) -> str:
    """Return the namespace that uploads for a model count against: its own if it has no base yet, else the user's."""
    namespace, _, name = full_name.partition("/")
    if access.is_new(session, actor, namespace, name) or models.find(session, full_name).state == "empty":
        return namespace
    return actor.name


def actions(upload: UploadSession, verify_at: str, here: str) -> dict[str, Any]:
    """Return where the parts of an upload are to be sent; nothing if it is done."""
    if upload.state == "done":
        return {}
    at = f"{here}{PART.format(upload_id=upload.id)}"
    parts = {str(number): f"{at}/parts/{number}" for number in range(1, upload.part_count + 1)}
    if len(parts) <= 1:
        send: dict[str, Any] = {"href": f"{at}/parts/1"}
    else:
        send = {"href": f"{at}/complete", "header": {"chunk_size": str(upload.part_size), **parts}}
    return {"actions": {"upload": send, "verify": {"href": verify_at}}}


async def complete_all(ctx: Context, actor: Actor, digests: list[str]) -> None:
    """Hash and store those of some files that the user has sent whole and not completed.

    Raises:
        WrongState: Parts are missing.
        DigestMismatch: The bytes are not those that were announced.
    """
    for upload in await run_in_threadpool(open_uploads, ctx, actor, digests):
        await receiving.complete(ctx, actor, upload)


def open_uploads(ctx: Context, actor: Actor, digests: list[str]) -> list[uuid.UUID]:
    """Return the user's sessions for some files that are not complete."""
    with ctx.database.read() as session:
        return [upload.id for upload in uploads.open_of(session, actor, digests)]

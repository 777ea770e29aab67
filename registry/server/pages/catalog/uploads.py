"""Uploads by a browser: what upload.js asks for while it sends the files of a form.

    each file hashed there ── announced here ── its missing parts sent ── completed here ──> the form, with digests

Parts are sent to the address that the Hub's tools send theirs to, which the id of the upload opens (hub/lfs.py).
"""

import uuid

from fastapi import APIRouter, Request, Response

from registry import schemas
from registry.server.api import uploads
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.pages.frame import forms
from registry.server.pages.frame.route import PageRoute

router = APIRouter(prefix="/uploads", route_class=PageRoute, include_in_schema=False)


@router.post("")
@allow("upload")
def announce(request: Request, actor: ActorDep, ctx: ContextDep) -> schemas.Upload:
    """Announce a file."""
    return uploads.announce(forms.read(schemas.UploadRequest, request), Response(), actor, ctx)


@router.post("/{upload_id}/complete")
@allow("upload")
async def complete(upload_id: uuid.UUID, actor: ActorDep, ctx: ContextDep) -> schemas.Upload:
    """Hash a file whose parts were sent, and store it."""
    return await uploads.complete(upload_id, actor, ctx)

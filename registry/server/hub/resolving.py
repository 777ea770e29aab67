"""Routes of files of a revision, at the addresses that clients of the Hugging Face Hub use.

/{namespace}/{name}/resolve/{revision}/{path}       at the Hub, files in Git LFS: here, all files
/{namespace}/{name}/raw/{revision}/{path}           the same; some clients read small files there
"""

from fastapi import APIRouter, Request, Response

from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.hub.route import Decoded, HubRoute, Repository, snapshot_headers
from registry.server.sending.files import send
from registry.services.composing import snapshots
from registry.services.hub import repositories

router = APIRouter(tags=["hub"], route_class=HubRoute, include_in_schema=False)


@router.api_route("/{namespace}/{name}/resolve/{rev}/{path:path}", methods=["GET", "HEAD"], response_class=Response)
@router.api_route("/{namespace}/{name}/raw/{rev}/{path:path}", methods=["GET", "HEAD"], response_class=Response)
@allow("model.read", snapshots.with_main)
def resolve(
    name: Repository, rev: Decoded, path: Decoded, actor: VisitorDep, ctx: ContextDep, request: Request
) -> Response:
    """Send a file of a revision, or redirect to it."""
    with ctx.database.read() as session:
        model = repositories.glance(session, name)
        found = repositories.find(session, actor, model, rev)
    request.state.commit = found.commit
    return send(request, ctx, model, found, path, immutable=rev == found.commit, headers=snapshot_headers(found))

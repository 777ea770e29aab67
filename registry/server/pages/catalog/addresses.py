"""Addresses of the Hub's own pages, which people and libraries print: each leads to the page of ours, or to the file.

/{namespace}/{name}/tree/{revision}, /commit/{id}    the page of a model, patch, release, channel or recipe
/{namespace}/{name}/commits/{revision}               the releases
/{namespace}/{name}/blob/{revision}/{path}           the file
/{namespace}/{name}/discussions, /discussions/{n}    the patches, one patch
"""

from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import RedirectResponse

from registry.server.edge.admission import VisitorDep, allow
from registry.server.edge.context import ContextDep
from registry.server.edge.paths import ModelName, Number
from registry.server.hub.addresses import page_of
from registry.server.hub.route import Decoded
from registry.server.pages.frame.route import PageRoute

router = APIRouter(prefix="/{namespace:space}/{name}", route_class=PageRoute, include_in_schema=False)


@router.get("/tree/{rev}")
@router.get("/tree/{rev}/{path:path}")
@router.get("/commit/{rev}")
@allow("model.read")
def revision(name: ModelName, rev: Decoded, actor: VisitorDep, ctx: ContextDep) -> RedirectResponse:
    """Lead to the page of a revision."""
    with ctx.database.read() as session:
        return RedirectResponse(page_of(session, actor, name, rev), 302)


@router.get("/commits/{rev}")
@allow("model.read")
def history(name: ModelName) -> RedirectResponse:
    """Lead to the releases of a model."""
    return RedirectResponse(f"/{name}/releases", 302)


@router.get("/blob/{rev}/{path:path}")
@allow("model.read")
def file(name: ModelName, rev: Decoded, path: Decoded) -> RedirectResponse:
    """Lead to a file."""
    return RedirectResponse(f"/{name}/resolve/{quote(rev, safe='')}/{quote(path)}", 302)


@router.get("/discussions")
@allow("model.read")
def discussions(name: ModelName) -> RedirectResponse:
    """Lead to the patches of a model."""
    return RedirectResponse(f"/{name}/patches", 302)


@router.get("/discussions/{number}")
@allow("model.read")
def discussion(name: ModelName, number: Number) -> RedirectResponse:
    """Lead to a patch."""
    return RedirectResponse(f"/{name}/patches/{number}", 302)

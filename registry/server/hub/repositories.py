"""Routes of the Hugging Face Hub, as its clients read it: models as repositories, their revisions and files.

The shape of an answer is what huggingface_hub, transformers, hf and others expect of it; the tests run them. These
routes are not described at /docs, which shows our own API.
"""

from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from registry.errors import EntryNotFound, InvalidRequest
from registry.server.edge.admission import ActorDep, VisitorDep, allow
from registry.server.edge.bodies import load_json, parse_body
from registry.server.edge.context import ContextDep, PublicUrl
from registry.server.edge.paths import Word
from registry.server.hub import views
from registry.server.hub.route import Decoded, HubRoute, Repository, snapshot_headers
from registry.services.catalog import tags
from registry.services.catalog.search import Filters
from registry.services.composing import snapshots
from registry.services.hub import downloads, listings, repositories
from registry.services.people import namespaces

router = APIRouter(tags=["hub"], route_class=HubRoute, include_in_schema=False)
MODEL = "/api/models/{namespace}/{name}"
PAGE = 1000  # llama.cpp reads no second page of a tree
COMMITS = 50
MOST_PATHS = 5000
CONVERTING = "transformers/"  # asks for commits only before it has huggingface.co convert a model to safetensors


@router.get("/api/whoami-v2")
@allow("user.read")
def whoami(actor: ActorDep, ctx: ContextDep) -> dict[str, Any]:
    """Show the user that the token speaks for."""
    with ctx.database.read() as session:
        return views.whoami(actor, namespaces.of_user(session, actor.user_id))


@router.get("/api/models")
@allow("server.read")
def listing(
    actor: VisitorDep,
    ctx: ContextDep,
    here: PublicUrl,
    request: Request,
    search: Word | None = None,
    author: Word | None = None,
    filter: Annotated[list[Word] | None, Query(max_length=20)] = None,
    pipeline_tag: Word | None = None,
    sort: Annotated[str | None, Query(max_length=30)] = None,
    direction: Annotated[int, Query(ge=-1, le=1)] = -1,
    limit: Annotated[int, Query(ge=1)] = 100,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
    full: bool = False,
    cardData: bool = False,
) -> Response:
    """List models."""
    wanted = [word for text in filter or () for word in text.split(",") if word]
    query = listings.Listing(
        Filters(search, author, (*wanted, *([pipeline_tag] if pipeline_tag else []))),
        sort=listings.order(sort),
        descending=direction < 0,
    )
    with ctx.database.read() as session:
        found, after = listings.page(session, actor, query, cursor, min(limit, listings.MOST_MODELS))
        named, totals = tags.of_models(session, found), downloads.totals(session, found)
        shown = [views.model(row, named[row.id], totals[row.id], card=full or cardData) for row in found]
    return JSONResponse(shown, headers=next_page(request, here, "cursor", after))


@router.get(MODEL)
@allow("model.read")
def info(name: Repository, actor: VisitorDep, ctx: ContextDep, response: Response, blobs: bool = False) -> Any:
    """Show a model at its main revision."""
    return show(name, "main", actor, ctx, response, blobs)


@router.get(MODEL + "/revision/{rev}")
@allow("model.read")
def info_at(
    name: Repository, rev: Decoded, actor: VisitorDep, ctx: ContextDep, response: Response, blobs: bool = False
) -> Any:
    """Show a model at a revision."""
    return show(name, rev, actor, ctx, response, blobs)


def show(name: str, rev: str, actor: VisitorDep, ctx: ContextDep, response: Response, blobs: bool) -> dict[str, Any]:
    """Return a model at a revision."""
    with ctx.database.read() as session:
        model = repositories.ready(session, name)
        found = repositories.find(session, actor, model, rev)
        response.headers.update(snapshot_headers(found))
        known = tags.of_models(session, [model])[model.id]
        totals = downloads.totals(session, [model])[model.id]
        return views.revision(model, found, ctx.store, totals, known, blobs=blobs)


@router.get(MODEL + "/tree/{rev}")
@router.get(MODEL + "/tree/{rev}/{path:path}")
@allow("model.read", snapshots.with_main)
def tree(
    name: Repository,
    rev: Decoded,
    actor: VisitorDep,
    ctx: ContextDep,
    here: PublicUrl,
    request: Request,
    path: Decoded = "",
    recursive: bool = False,
    expand: bool = False,
    limit: Annotated[int, Query(ge=1)] = PAGE,
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """List the files and folders of a revision, or of a folder in it."""
    path = path.strip("/")
    with ctx.database.read() as session:
        model = repositories.glance(session, name)
        found = repositories.find(session, actor, model, rev)
        full = repositories.ready(session, name) if expand else None
        commit = repositories.history(session, full, found, 0, 1)[0] if full else None
    request.state.commit = found.commit
    entries = views.tree(found)
    if path and entries.get(path, {}).get("type") != "directory":
        raise EntryNotFound(f"There is no folder {path!r} in {name} at {rev}.")
    inside = [
        entry
        for at, entry in entries.items()
        if (not path or at.startswith(f"{path}/")) and (recursive or "/" not in at[len(path) + bool(path) :])
    ]
    inside = [entry for entry in inside if cursor is None or entry["path"] > cursor]
    page = inside[: min(limit, PAGE)]
    shown = [views.expanded(entry, commit) for entry in page] if commit else page
    end = page[-1]["path"] if len(page) < len(inside) else None
    return JSONResponse(shown, headers=snapshot_headers(found) | next_page(request, here, "cursor", end))


@router.post(MODEL + "/paths-info/{rev}")
@allow("model.read")
async def paths_info(name: Repository, rev: Decoded, actor: VisitorDep, ctx: ContextDep, request: Request) -> Response:
    """Show the named files and folders of a revision, as far as they exist; the body is a form or JSON."""
    kind = request.headers.get("content-type", "")
    paths, expand = await parse_body(request, lambda raw: read_paths(raw, kind))

    def answer() -> Response:
        with ctx.database.read() as session:
            model = repositories.ready(session, name)
            found = repositories.find(session, actor, model, rev)
            commit = repositories.history(session, model, found, 0, 1)[0] if expand else None
        entries = views.tree(found)
        named = [entries[path] for path in dict.fromkeys(paths) if path in entries]
        shown = [views.expanded(entry, commit) for entry in named] if commit else named
        return JSONResponse(shown, headers=snapshot_headers(found))

    return await run_in_threadpool(answer)


@router.get(MODEL + "/refs")
@allow("model.read")
def refs(name: Repository, actor: VisitorDep, ctx: ContextDep, include_prs: bool = False) -> dict[str, Any]:
    """List branches and tags, and on request pull requests."""
    with ctx.database.read() as session:
        model = repositories.ready(session, name)
        return views.refs(repositories.refs(session, actor, model, pulls=include_prs), pulls=include_prs)


@router.get(MODEL + "/commits/{rev}")
@allow("model.read")
def commits(
    name: Repository,
    rev: Decoded,
    actor: VisitorDep,
    ctx: ContextDep,
    here: PublicUrl,
    request: Request,
    p: Annotated[int, Query(ge=0, le=10**6)] = 0,
    limit: Annotated[int, Query(ge=1)] = COMMITS,
) -> Response:
    """List the commits that a revision comes from, newest first."""
    if request.headers.get("user-agent", "").startswith(CONVERTING):
        raise InvalidRequest(
            f"The weights of {name} are safetensors already, under other names than transformers looks for; it would "
            "now send your token to a service of huggingface.co that converts models. Load it without "
            "`use_safetensors=True`."
        )
    size = min(limit, COMMITS)
    with ctx.database.read() as session:
        model = repositories.ready(session, name)
        found = repositories.find(session, actor, model, rev)
        steps = repositories.history(session, model, found, p * size, size + 1)
    more = str(p + 1) if len(steps) > size else None
    shown = [views.commit(step) for step in steps[:size]]
    return JSONResponse(shown, headers=next_page(request, here, "p", more))


@router.get(MODEL + "/auth-check")
@allow("model.read")
def may_read(name: Repository) -> dict[str, Any]:
    """Answer a caller who may read the model; admission refuses all others."""
    return {}


@router.get(MODEL + "/auth-check/write")
@allow("patch.push")
def may_write(name: Repository) -> dict[str, Any]:
    """Answer a caller who may push to the model; admission refuses all others."""
    return {}


def read_paths(raw: bytes, kind: str) -> tuple[list[str], bool]:
    """Return the paths of a body that is a form (Python) or JSON (JavaScript), and whether to expand them.

    Raises:
        InvalidRequest: The body is neither.
    """
    try:
        if kind.startswith("application/json"):
            given = load_json(raw)
            paths, expand = given["paths"], bool(given.get("expand"))
            paths = [paths] if isinstance(paths, str) else paths
        else:
            form = parse_qs(raw.decode("utf-8"), max_num_fields=MOST_PATHS + 1, errors="strict")
            paths, expand = form.get("paths", []), form.get("expand", [""])[-1].lower() == "true"
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InvalidRequest("Send `paths` as a form or as JSON.", field="paths") from None
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths) or len(paths) > MOST_PATHS:
        raise InvalidRequest(f"`paths` must be a list of at most {MOST_PATHS} strings.", field="paths")
    return [path.strip("/") for path in paths], expand


def next_page(request: Request, here: str, name: str, value: str | None) -> dict[str, str]:
    """Return the Link header to the next page (RFC 8288): this address with another cursor; empty without a cursor."""
    if value is None:
        return {}
    pairs = [(key, text) for key, text in request.query_params.multi_items() if key != name]
    return {"Link": f'<{here}{request.scope["path"]}?{urlencode([*pairs, (name, value)])}>; rel="next"'}

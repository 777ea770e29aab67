"""Routes of the Hub that a registry does not have: each answers with a sentence on what to do here instead.

They change nothing, so whoever sees a model may be told. They come after all others, since the last takes any path.
"""

import re

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

from registry.errors import InvalidRequest
from registry.files.names import MODEL as FULL_NAME
from registry.server.edge.admission import allow
from registry.server.edge.context import PublicUrl
from registry.server.edge.paths import Number
from registry.server.hub.route import Decoded, HubRoute, Repository, answer

MODEL = "/api/models/{namespace}/{name}"
DISCUSSIONS = MODEL + "/discussions"
WITHOUT_XET = "set-HF_HUB_DISABLE_XET=1-and-upload-again"
WRITING = ["POST", "PUT", "PATCH", "DELETE"]
KINDS = "This registry holds models alone, and no {}; for those use https://huggingface.co."
router = APIRouter(tags=["hub refusals"], route_class=HubRoute, include_in_schema=False)


@router.get("/{path:path}/info/refs")
@allow("server.read")
def git(path: str, here: PublicUrl) -> Response:
    """Tell git, which shows plain text as lines of the remote, how a model is pulled."""
    name = path.removesuffix(".git")
    if re.fullmatch(FULL_NAME, name) is None:
        name = "NS/NAME"
    folder = name.partition("/")[2]
    return PlainTextResponse(
        "This registry is no git server. Pull the model with one of:\n"
        f"  HF_ENDPOINT={here} hf download {name} --local-dir {folder}\n"
        f"  crumb pull {name} -o {folder}\n",
        404,
    )


@router.get(MODEL + "/xet-write-token/{rev}")
@allow("model.read")
def xet(request: Request) -> Response:
    """Lead to an address that says what to set: of a refusal, hf_xet shows the status and the address alone."""
    return RedirectResponse(f"{request.url.path}/{WITHOUT_XET}", 307)


@router.get(MODEL + "/xet-write-token/{rev}/" + WITHOUT_XET)
@allow("model.read")
def without_xet() -> Response:
    """Tell a client how it uploads without Xet."""
    raise InvalidRequest(
        "This registry has no Xet storage: set HF_HUB_DISABLE_XET=1 in the environment, and upload again."
    )


@router.api_route(MODEL + "/tag/{rev}", methods=["POST", "DELETE"])
@allow("model.read")
def tag(name: Repository, rev: Decoded) -> Response:
    """Say what a tag is here."""
    raise InvalidRequest(
        f"A tag here is a release, which is never deleted: cut one with `crumb release cut {name} VERSION N...`, and "
        "yank one with `crumb release yank`."
    )


@router.api_route(MODEL + "/branch/{rev}", methods=["POST", "DELETE"])
@allow("model.read")
def branch(name: Repository, rev: Decoded) -> Response:
    """Say what a branch is here."""
    raise InvalidRequest(
        f"A branch here is a channel that points at a release: move one with `crumb channel move {name} CHANNEL "
        "VERSION`."
    )


@router.put(MODEL + "/settings")
@allow("model.read")
def change_settings(name: Repository) -> Response:
    """Say how a model is set."""
    raise InvalidRequest(f"Set the model with `crumb model set {name}`, or on its page of settings.")


@router.post(MODEL + "/super-squash/{rev}")
@allow("model.read")
def squash(name: Repository, rev: Decoded) -> Response:
    """Say why a history stays."""
    raise InvalidRequest(f"The history of {name} is its releases, which stay as they were published.")


@router.api_route(MODEL + "/lfs-files", methods=["GET"])
@router.api_route(MODEL + "/lfs-files/{path:path}", methods=["POST"])
@allow("model.read")
def large_files(name: Repository) -> Response:
    """Say who looks after files."""
    raise InvalidRequest(
        "Files here belong to patches and releases, and the registry removes those that nothing needs any more."
    )


@router.post(DISCUSSIONS + "/{number}/title")
@allow("model.read")
def rename(name: Repository, number: Number) -> Response:
    """Say why a title stays."""
    raise InvalidRequest(
        "A title belongs to a revision, and stays with it; the author gives the next revision another: "
        f"`crumb push TUNED {name} --update {number} -m TITLE`."
    )


@router.delete("/api/repos/delete")
@router.post("/api/repos/move")
@allow("server.read")
def repository() -> Response:
    """Say why a repository stays where it is."""
    raise InvalidRequest(
        "A model here is neither deleted nor renamed, since others pull it by its name; `crumb model set NS/NAME "
        "--private` hides it."
    )


@router.api_route("/api/datasets", methods=["GET"])
@router.api_route("/api/datasets/{path:path}", methods=["GET", *WRITING])
@router.api_route("/datasets/{path:path}", methods=["GET", "HEAD"])
@allow("server.read")
def dataset() -> Response:
    """Say that there are no datasets."""
    return answer(404, KINDS.format("datasets"), {"X-Error-Code": "RepoNotFound"})


@router.api_route("/api/spaces", methods=["GET"])
@router.api_route("/api/spaces/{path:path}", methods=["GET", *WRITING])
@router.api_route("/spaces/{path:path}", methods=["GET", "HEAD"])
@allow("server.read")
def space() -> Response:
    """Say that there are no spaces."""
    return answer(404, KINDS.format("spaces"), {"X-Error-Code": "RepoNotFound"})


@router.api_route(MODEL + "/{path:path}", methods=WRITING)
@allow("model.read")
def other(name: Repository, request: Request) -> Response:
    """Say where all that a registry does is listed."""
    asked = f"{request.method} {request.url.path}"
    raise InvalidRequest(
        f"This registry does not do {asked}; `crumb --help` and its page /docs list what it does with a model."
    )

"""Routes by which the Hub's tools push: a new model, or a patch that is made here of the model that they send.

    create_repo ──> a name without a base ── commit on main ──> the base
    commit with create_pr ──> patch #N, diffed by a worker ── commit on refs/pr/N ──> its next revision
      the same, of README.md alone ──> #N, which proposes a card; on main, a maintainer changes it at once

Each commit begins with `preupload`, which says for each file whether it goes into the commit or by Git LFS (lfs.py),
and refuses early what the commit would be refused for.
"""

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from registry.db.tables import PushedFile
from registry.documents.commits import blob_id, commit_id
from registry.errors import Forbidden, InvalidRequest, NotFound, WrongState
from registry.files.beside import CARD, CARD_BYTES
from registry.files.folders import check_path, is_pickle, is_pickled_weights, is_weights, may_hold_weights
from registry.server.edge.admission import ActorDep, allow
from registry.server.edge.bodies import load_json, parse_body, read_bytes
from registry.server.edge.context import Context, ContextDep, PublicUrl
from registry.server.hub import commits, lfs
from registry.server.hub.route import Decoded, PushRoute
from registry.services.blobs import blobs, uploads
from registry.services.catalog import models
from registry.services.curation import cards
from registry.services.hub import origins, pushed_files, pushes
from registry.services.hub.repositories import PULL, short_ref
from registry.services.people import access, budgets
from registry.services.people.actors import Actor
from registry.services.people.rules import RULES

router = APIRouter(tags=["hub"], route_class=PushRoute, include_in_schema=False)
MODEL = "/api/models/{namespace}/{name}"
MOST_ASKED = 1000  # files of one preupload; the Hub's tools send 256
UNFINISHED = re.compile(r"Training in progress, (?:step|epoch) \d+")
"""Titles of what transformers' Trainer pushes before the training has ended."""

LEFTOVERS = re.compile(r"(?:^|/)\.(?!\.)|^runs/|^(?:last-)?checkpoint(?:-\d+)?/|events\.out\.tfevents")


@dataclass(frozen=True)
class Target:
    """What a commit is for: a model's base, a patch or a card, by a new pull request or by that of a `number`.

    One for a card that is `at_once` needs no decision.
    """

    kind: Literal["base", "patch", "card"]
    number: int | None = None
    at_once: bool = False


BASE = Target("base")


@router.post("/api/repos/create")
@allow("upload")
async def create_repo(request: Request, actor: ActorDep, ctx: ContextDep, here: PublicUrl) -> Response:
    """Reserve a name for a model; its base is what is pushed to it first."""
    full_name, visibility = await parse_body(request, lambda raw: read_repo(load_json(raw), actor.name))
    said = {"url": f"{here}/{full_name}", "name": full_name}
    try:
        await run_in_threadpool(reserve, ctx, actor, full_name, visibility)
    except WrongState as why:  # which tools take for the model they asked for, and read its address
        return JSONResponse({**said, "error": why.message}, 409, headers={"X-Error-Message": why.message})
    return JSONResponse(said)


@router.post("/api/validate-yaml")
@allow("server.read")
async def validate_yaml(request: Request, ctx: ContextDep) -> Response:
    """Accept a model card's front matter, which nothing here depends on; some tools ask without a token."""
    await read_bytes(request, ctx.settings.anonymous_json_bytes)
    return JSONResponse({"errors": [], "warnings": []})


@router.post(MODEL + "/preupload/{rev}")
@allow("name.push")
async def preupload(
    namespace: str,
    name: str,
    rev: Decoded,
    request: Request,
    actor: ActorDep,
    ctx: ContextDep,
    create_pr: bool = False,
) -> Response:
    """Say how each file of a commit is to be sent, which are left out, and which are here already."""
    asked = await parse_body(request, lambda raw: read_asked(load_json(raw)))
    full_name = f"{namespace}/{name}"
    files = await run_in_threadpool(plan, ctx, actor, full_name, rev, asked, create_pr)
    return JSONResponse({"files": files})


@router.post(MODEL + "/discussions")
@allow("patch.push")
async def create_discussion(
    namespace: str, name: str, request: Request, actor: ActorDep, ctx: ContextDep, here: PublicUrl
) -> Response:
    """Open a pull request, as a draft, for the commits that follow; other threads belong to patches here."""
    full_name = f"{namespace}/{name}"
    sent = await parse_body(request, lambda raw: commits.read_opening(load_json(raw), full_name))
    number = await run_in_threadpool(open_draft, ctx, actor, full_name, sent)
    return JSONResponse({"num": number, "url": f"{here}/{full_name}/discussions/{number}"})


@router.post(MODEL + "/commit/{rev}")
@allow("name.push")
async def commit(
    namespace: str,
    name: str,
    rev: Decoded,
    request: Request,
    actor: ActorDep,
    ctx: ContextDep,
    here: PublicUrl,
    create_pr: bool = False,
) -> Response:
    """Take a commit: the base of a new model, or what a patch is made of."""
    full_name = f"{namespace}/{name}"
    await run_in_threadpool(aim_alone, ctx, actor, full_name, rev, create_pr, None)  # before the body is read
    raw = await read_bytes(request, commits.COMMIT_BYTES)
    sent = await to_thread.run_sync(commits.read_commit, raw, limiter=ctx.parsing)
    await lfs.complete_all(ctx, actor, list(sent.large.values()))
    oid, number = await run_in_threadpool(take, ctx, actor, full_name, rev, sent, create_pr)
    url = f"{here}/{full_name}/discussions/{number}" if number is not None else None
    return JSONResponse(
        {"success": True, "commitUrl": f"{here}/{full_name}/commit/{oid}", "commitOid": oid, "pullRequestUrl": url}
    )


def read_repo(given: Any, user: str) -> tuple[str, str]:
    """Return the full name and the visibility that a tool asks for.

    Raises:
        InvalidRequest: It asks for something that is no model.
    """
    given = given if isinstance(given, dict) else {}
    name, organization = given.get("name"), given.get("organization") or user
    if given.get("type", "model") not in (None, "model"):
        raise InvalidRequest("This registry has models alone; leave out the repository's type.", field="type")
    if not isinstance(name, str) or not isinstance(organization, str):
        raise InvalidRequest("A model needs a `name`, as text.", field="name")
    private = given.get("private") is True or given.get("visibility") == "private"
    return f"{organization}/{name}", "private" if private else "public"


def reserve(ctx: Context, actor: Actor, full_name: str, visibility: str) -> None:
    """Reserve a name, unless the caller may see a model that has it."""
    namespace, _, name = full_name.partition("/")
    with ctx.database.write() as session:
        try:
            access.admit(session, actor, "model.read", {"namespace": namespace, "name": name})
        except NotFound:
            access.check_token(actor, None, RULES["model.create"])
            models.create_empty(session, actor, full_name, visibility)
        else:
            raise WrongState(f"You already have a model {full_name}, or may see one.", field="name")


def aim_alone(
    ctx: Context, actor: Actor, full_name: str, rev: str, create_pr: bool, paths: Collection[str] | None
) -> Target:
    """Do what `aim` does, in a transaction of its own."""
    with ctx.database.read() as session:
        return aim(session, actor, full_name, rev, create_pr, paths)


def aim(
    session: Session, actor: Actor, full_name: str, rev: str, create_pr: bool, paths: Collection[str] | None
) -> Target:
    """Return what a commit on a revision is for, if the caller may make it.

    Args:
        session: A transaction.
        actor: The caller.
        full_name: `namespace/name`.
        rev: The revision.
        create_pr: Whether it opens a pull request.
        paths: What it changes; None if that is not known yet, and it is admitted if it could be.

    Raises:
        NotFound, Forbidden: The caller may not see or do that.
        InvalidRequest: There is nothing that such a commit could be for; the message says what there is.
    """
    namespace, _, name = full_name.partition("/")
    path, ref = {"namespace": namespace, "name": name}, short_ref(rev)
    access.admit(session, actor, "name.push", path)
    pull = PULL.fullmatch(ref)
    model = None if access.is_new(session, actor, namespace, name) else models.find(session, full_name)
    if model is None or model.state == "empty":
        access.admit_to_namespace(session, actor, "model.create", namespace)
        if ref != "main" or create_pr:
            raise InvalidRequest(f"{full_name} has no base yet; push the base first, to main, without a pull request.")
        return BASE
    models.require_ready(model)
    of_card = paths is not None and pushed_files.is_card(paths)
    if pull is not None:
        access.admit(session, actor, "patch.revise", {**path, "number": pull[1]})
        if cards.seek(session, model, int(pull[1])) is None:
            return Target("patch", int(pull[1]))
        if paths is not None and not of_card:
            raise InvalidRequest(
                f"{full_name}#{pull[1]} proposes a card and takes README.md alone; push the rest with `create_pr=True`."
            )
        return Target("card", int(pull[1]))
    if ref != "main":
        raise InvalidRequest(f"{full_name} has no branch {rev!r} to push to; push with `create_pr=True`.", field="rev")
    access.admit(session, actor, "patch.push", path)
    if not create_pr and (of_card or paths is None):
        try:
            access.admit(session, actor, "card.change", path)
        except Forbidden as why:
            if of_card:
                raise Forbidden(f"{why.message} Others propose a card: push it with `create_pr=True`.") from None
        else:
            return Target("card", at_once=True)
    if not create_pr:
        raise InvalidRequest(
            f"{full_name} has a base, which never changes: what was learned comes as patches. Push with "
            f"`create_pr=True`, or `hf upload {full_name} FOLDER --create-pr`, and one is made of what you send. A "
            "Trainer pushes into a pull request that is open: with `hub_revision='refs/pr/N'`, for the N of "
            f"`huggingface_hub.create_pull_request('{full_name}', title='...').num`."
        )
    return Target("card" if of_card else "patch")


def read_asked(given: Any) -> list[tuple[str, int]]:
    """Return path and size of each file that a tool asks about.

    Raises:
        InvalidRequest: It does not ask about files, or about too many.
    """
    files = given.get("files") if isinstance(given, dict) else None
    if not isinstance(files, list) or len(files) > MOST_ASKED:
        raise InvalidRequest(f"`files` must be a list of at most {MOST_ASKED} files.", field="files")
    asked = []
    for file in files:
        path, size = (file.get("path"), file.get("size")) if isinstance(file, dict) else (None, None)
        if not isinstance(path, str) or not isinstance(size, int):
            raise InvalidRequest("Each file needs `path` and `size`.", field="files")
        asked.append((path, size))
    return asked


def plan(
    ctx: Context, actor: Actor, full_name: str, rev: str, asked: list[tuple[str, int]], create_pr: bool
) -> list[dict[str, Any]]:
    """Return for each file how it is to be sent, whether it is left out, and its name if it is here already."""
    with ctx.database.read() as session:
        target = aim(session, actor, full_name, rev, create_pr, [path for path, _ in asked if not is_leftover(path)])
        known: dict[str, tuple[str, int]] = {}
        card = b""
        if target.kind == "card":
            model = models.ready(session, full_name)
            proposed = cards.find(session, model, target.number).card if target.number is not None else model.card
            card = (proposed or "").encode()
        elif target.kind == "patch":
            model = models.ready(session, full_name)
            known = {file.path: (file.sha256, file.blob.size) for file in models.base_files(session, model)}
            push = pushes.find(session, model, target.number) if target.number is not None else None
            for file in push.files if push else ():
                lay_over(known, file)
    planned = []
    for path, size in asked:
        ignored = is_leftover(path)
        if not ignored:
            check_path(path)
        mode = "lfs" if is_weights(path) or size > commits.REGULAR_BYTES else "regular"
        oid = None if ignored else name_of(ctx, mode, *known.get(path, (None, 0)))
        if target.kind == "card" and not ignored:
            oid = hashlib.sha256(card).hexdigest() if mode == "lfs" else blob_id(card)
        planned.append({"path": path, "uploadMode": mode, "shouldIgnore": ignored, "oid": oid})
    return planned


def lay_over(known: dict[str, tuple[str, int]], file: PushedFile) -> None:
    """Put a file of a push over those of the base; one whose bytes were let go of has to be sent again."""
    known.pop(file.path, None)
    if file.blob_sha256 is not None:
        known[file.path] = (file.blob_sha256, file.size)


def is_leftover(path: str) -> bool:
    """Say whether a file is left of training, or another copy of the weights, and no part of what is pushed."""
    pickled = is_pickle(path) and not is_pickled_weights(path)
    copied = may_hold_weights(path) and not is_pickle(path) and not path.endswith((".safetensors", ".json"))
    return pickled or copied or LEFTOVERS.search(path) is not None


def name_of(ctx: Context, mode: str, sha256: str | None, size: int) -> str | None:
    """Return what a tool calls bytes that are here: their sha256 if it sends them by Git LFS, else git's id."""
    if sha256 is None or mode == "lfs":
        return sha256
    raw = ctx.store.read(sha256, commits.REGULAR_BYTES) if size <= commits.REGULAR_BYTES else None
    return None if raw is None else blob_id(raw)


def open_draft(ctx: Context, actor: Actor, full_name: str, sent: commits.Sent) -> int:
    """Open a pull request without commits; return its number."""
    made = commits.describe(sent, {})
    with ctx.database.write() as session:
        budgets.spend(session, actor, sent.size, ctx.settings.text_bytes)
        made = origins.resolve(session, actor, models.ready(session, full_name), made)
        return pushes.open_push(session, actor, full_name, made, propose=False).patch.number


def take(
    ctx: Context,
    actor: Actor,
    full_name: str,
    rev: str,
    sent: commits.Sent,
    create_pr: bool,
    *,
    propose: bool = True,
) -> tuple[str, int | None]:
    """Do what a commit asks for; return its id, and the number of its pull request, which it may `propose`.

    What is left of training is dropped, for tools that do not heed `shouldIgnore`.
    """
    sent.contents = {path: content for path, content in sent.contents.items() if not is_leftover(path)}
    sent.large = {path: sha256 for path, sha256 in sent.large.items() if not is_leftover(path)}
    if aim_alone(ctx, actor, full_name, rev, create_pr, sent.paths).kind == "card":
        return take_card(ctx, actor, full_name, rev, sent, create_pr)
    with ctx.database.write() as session:
        budgets.spend(session, actor, sent.size, ctx.settings.text_bytes, 1 + len(sent.contents) + len(sent.large))
        space = lfs.payer(session, actor, full_name)
    files = dict(sent.large)
    for path, content in sorted(sent.contents.items()):  # each alone, since others want to write as well
        with ctx.database.write() as session:
            files[path] = uploads.put(session, ctx.store, actor, content, ctx.upload_limits, space)
    made = commits.describe(sent, files)
    with ctx.database.write() as session:
        target = aim(session, actor, full_name, rev, create_pr, sent.paths)
        if target == BASE:
            if UNFINISHED.match(made.title):
                raise InvalidRequest(
                    f"{made.title!r} is a checkpoint of a training that goes on, and the first push to {full_name} "
                    "becomes its base for good; push once the training has ended (TrainingArguments: "
                    "`hub_strategy='end'`)."
                )
            pushed_files.refuse_adapter(files)
            model, job = models.create(session, actor, full_name, sorted(files.items()))
            ctx.admit(session, job)
            return commit_id(files), None
        made = origins.resolve(session, actor, models.ready(session, full_name), made)
        if target.number is None:
            pushed_files.require_weights(made.files)
            push = pushes.open_push(session, actor, full_name, made, propose=propose)
        else:
            model = models.ready(session, full_name, lock=True)
            push = pushes.continue_push(session, model, target.number, made)
        ctx.admit(session, pushes.commit(session, actor, full_name, push, made))
        assert push.commit is not None
        return push.commit, push.patch.number


def take_card(
    ctx: Context, actor: Actor, full_name: str, rev: str, sent: commits.Sent, create_pr: bool
) -> tuple[str, int | None]:
    """Propose a card, or change one; return its id at the Hub, and the number of its pull request."""
    commits.describe(sent, {})  # or its texts are refused
    with ctx.database.write() as session:
        raw = sent.contents[CARD] if CARD in sent.contents else read_large(session, ctx, actor, sent.large[CARD])
    new = cards.NewCard(cards.decode(raw), sent.title, sent.message)
    with ctx.database.write() as session:
        budgets.spend(session, actor, sent.size + len(new.card.encode()), ctx.settings.text_bytes)
        target = aim(session, actor, full_name, rev, create_pr, sent.paths)
        if target.number is not None:
            row = cards.revise(session, actor, full_name, target.number, new)
        else:
            row = cards.propose(session, actor, full_name, new)
            if target.at_once:
                cards.accept(session, actor, ctx.store, full_name, row.patch.number)
        return row.commit, None if target.at_once else row.patch.number


def read_large(session: Session, ctx: Context, actor: Actor, sha256: str) -> bytes | None:
    """Return the bytes of a card that went by Git LFS; None if they are too many.

    Raises:
        InvalidRequest: They were not uploaded.
    """
    if sha256 not in blobs.readable(session, actor, [sha256]):
        raise InvalidRequest(f"The bytes of {CARD} are missing; upload them first.", field=CARD)
    return ctx.store.read(sha256, CARD_BYTES)

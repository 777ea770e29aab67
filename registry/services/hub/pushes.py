"""Pushes: pull requests of the Hub's tools, whose files a worker compares with the base to make a patch of them.

    open_push ──> commit, commit ... ──> a job diffs ──> finish: the patch's next revision, checked like any other
                                              └──> fail: the sentence is shown, and the next commit tries again

What a tool sends lies over the files of the base, as a branch begins with the files of main. The bytes of the weights
are let go of after each diff, so the next commit has to have all of them that it needs.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload, selectinload

from registry.breadcrumbs.formats.layout import MaskParams
from registry.db.tables import Check, Job, Model, Patch, Push, PushedFile
from registry.documents.trailers import of_mask, read_trailers
from registry.errors import InvalidRequest, NotFound, WrongState
from registry.files import beside
from registry.files.folders import check_path, is_weights, require_one_folder
from registry.services.blobs import blobs, quotas
from registry.services.catalog import beside as catalog_beside
from registry.services.catalog import models, patches, revisions
from registry.services.catalog.revisions import Contribution
from registry.services.hub.pushed_files import MOST_FILES, holds_weights, missing_shards, require_all, spread
from registry.services.people import policies
from registry.services.people.actors import Actor, record
from registry.services.queue import jobs
from registry.storage.store import Store

CHECK = "diff"  # the check with what the comparison of a push found


@dataclass(frozen=True)
class PushedCommit:
    """What one commit of a tool says.

    Args:
        title: Its first line.
        message: Its description.
        options: What the description says of how to diff, and of the patch: see `documents/trailers.py`.
        files: sha256 by path of the files that it adds or changes.
        deleted: Paths that it deletes; one that ends in a slash is a folder.
    """

    title: str
    message: str
    options: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    deleted: Sequence[str] = ()


def read_options(message: str) -> dict[str, Any]:
    """Return what the description of a commit says of how to diff, and of the patch.

    Raises:
        InvalidRequest: What it says is not valid; the message names it.
    """
    options = read_trailers(message)
    MaskParams(**({"drop_bottom": "0", "drop_top": "0"} | of_mask(options)))  # what it leaves out, its model says
    return options


def open_push(session: Session, actor: Actor, full_name: str, commit: PushedCommit, *, propose: bool) -> Push:
    """Open a pull request: a patch with the next number, and without a revision until one is made of its files.

    Args:
        session: A writing transaction.
        actor: The author.
        full_name: `namespace/name`.
        commit: Has the texts and options; its files are for `commit`.
        propose: Whether its first revision is proposed at once.

    Raises:
        NotFound, WrongState: The model does not exist, or has no base yet.
        InvalidRequest: With the model's settings, its options leave out everything.
    """
    model = models.ready(session, full_name, lock=True)
    check_mask(session, model, commit)
    model.patch_count += 1
    patch = Patch(
        model_id=model.id,
        number=model.patch_count,
        author_id=actor.user_id,
        task=commit.options.get("task"),
        state="draft",
        revision=0,
    )
    session.add(patch)
    session.flush()
    push = describe(Push(patch_id=patch.id, patch=patch, propose=propose, state="open", files=[]), commit)
    session.add(push)
    session.flush()
    subject = f"{full_name}#{patch.number}"
    record(session, actor, "push.open", subject, model, after={"title": commit.title, "propose": propose})
    return push


def check_mask(session: Session, model: Model, commit: PushedCommit) -> None:
    """Refuse options of a commit that leave out everything, or less than the policy of admins asks for."""
    mask = MaskParams(**{**model.mask, **of_mask(commit.options)})
    policies.require_mask(session, mask.drop_bottom, mask.drop_top, "The patch")


def describe(push: Push, commit: PushedCommit) -> Push:
    """Give a push the texts and options of a commit."""
    push.title, push.message, push.options = commit.title, commit.message, dict(commit.options)
    return push


def find(session: Session, model: Model, number: int) -> Push | None:
    """Return the push of a patch, with its files; None if the patch came in another way, or does not exist."""
    query = (
        select(Push)
        .join(Patch, Patch.id == Push.patch_id)
        .where(Patch.model_id == model.id, Patch.number == number)
        .options(joinedload(Push.patch).joinedload(Patch.author), selectinload(Push.files))
    )
    push: Push | None = session.scalar(query)
    return push


def unfinished(session: Session, patch_id: uuid.UUID) -> Push | None:
    """Return the push of a patch if it is being compared, or if no revision could be made of it."""
    query = select(Push).options(joinedload(Push.patch).joinedload(Patch.author))
    push: Push | None = session.scalar(query.where(Push.patch_id == patch_id, Push.state.in_(("diffing", "failed"))))
    return push


def continue_push(session: Session, model: Model, number: int, commit: PushedCommit) -> Push:
    """Return the push of a patch for the next commit; one that came in another way gets a push now.

    The caller has been admitted as its author, and holds the model's lock.

    Raises:
        NotFound: There is no such patch.
        WrongState: The patch takes no more revisions.
    """
    patch = session.scalar(select(Patch).where(Patch.model_id == model.id, Patch.number == number).with_for_update())
    if patch is None:
        raise NotFound(f"There is no patch {model.full_name}#{number}; see `crumb log {model.full_name}`.")
    if patch.state not in patches.REVISABLE:
        raise WrongState(f"{model.full_name}#{number} is {patch.state} and takes no more revisions; push a new patch.")
    push = find(session, model, number)
    if push is None:
        push = describe(Push(patch_id=patch.id, patch=patch, propose=False, state="open", files=[]), commit)
        session.add(push)
    elif any(map(holds_weights, commit.files)):
        describe(push, commit if commit.options else replace(commit, options=push.options))
    if patch.revision == 0:
        patch.task = push.options.get("task", patch.task)
    session.flush()
    return push


def commit(session: Session, actor: Actor, full_name: str, push: Push, commit: PushedCommit) -> Job | None:
    """Put a commit's files over those of a push; return the job that diffs them once there are whole weights.

    Raises:
        InvalidRequest: A path, a digest or the options are not valid, bytes were not uploaded, or weights are missing
            that were let go of; the message names it.
    """
    model = models.ready(session, full_name, lock=True)
    check_mask(session, model, commit)
    if any(map(holds_weights, commit.files)):
        policies.require_license(session, push.options.get("license"), "The patch (`License: …` in the description)")
    base = {file.path for file in models.base_files(session, model)}
    before = {file.path: file for file in push.files}
    deleted = spread(commit.deleted, base | before.keys()) - commit.files.keys()
    for path in commit.files:
        check_path(path)
    of_weights = {path for path in commit.files if holds_weights(path)}
    if of_weights:
        require_all(before.values(), of_weights, deleted)
        for path, file in list(before.items()):  # what was let go of is replaced as a whole
            if file.sha256 and file.blob_sha256 is None and path not in commit.files:
                push.files.remove(before.pop(path))
    quotas.lock_payer(session, push.patch.author_id)
    sizes = blobs.readable(session, actor, set(commit.files.values()))
    for path, needed in commit.files.items():
        if needed not in sizes:
            raise InvalidRequest(f"The bytes of {path} are missing; upload them first.", field=path)
    quotas.charge(session, quotas.payer(session, push.patch.author_id), set(commit.files.values()))
    for path in sorted({*commit.files, *deleted}):
        sha256 = commit.files.get(path)
        if sha256 is None and path not in base:
            if path in before:
                push.files.remove(before.pop(path))
            continue
        if path not in before:
            before[path] = PushedFile(patch_id=push.patch_id, path=path, size=0)
            push.files.append(before[path])
        file = before[path]
        file.sha256, file.blob_sha256, file.size = sha256, sha256, sizes.get(sha256 or "", 0)
    paths = [*(base - before.keys()), *(path for path, file in before.items() if file.sha256)]
    if len(paths) > MOST_FILES:
        raise InvalidRequest(f"A push has at most {MOST_FILES} files, not {len(paths)}.", field="files")
    require_one_folder(paths)
    push.commit, push.origin = commit_id(push), actor.token.origin
    session.flush()
    quotas.recount(session, quotas.payer(session, push.patch.author_id))
    subject = f"{full_name}#{push.patch.number}"
    record(session, actor, "push.commit", subject, model, after={"title": commit.title, "files": len(commit.files)})
    if not of_weights:
        return None
    if missing := list(islice(missing_shards({path for path, file in before.items() if file.blob_sha256}, base), 2)):
        push.state, push.error = "open", f"It waits for {missing[0]}" + (" and others." if missing[1:] else ".")
        session.flush()
        return None
    return ask(session, actor.user_id, model, push)


def ask(session: Session, user: uuid.UUID, model: Model, push: Push) -> Job:
    """Ask a worker to diff what was pushed."""
    push.state, push.error = "diffing", None
    session.flush()
    payload = {"patch_id": str(push.patch_id)}
    return jobs.enqueue(session, user, "diff", key_of(push.patch_id), model, f"#{push.patch.number}", payload)


def key_of(patch_id: uuid.UUID) -> str:
    """Return the key of the job that diffs a push."""
    return f"diff:{patch_id}"


def commit_id(push: Push) -> str:
    """Return what the newest commit of a push is called: 40 hex digits, of its patch and files."""
    lines = [f"{file.sha256 or ''} {file.path}\n" for file in sorted(push.files, key=lambda file: file.path)]
    return hashlib.sha256("".join([f"push {push.patch_id}\n", *lines]).encode()).hexdigest()[:40]


def by_commit(session: Session, model: Model, commit: str) -> int | None:
    """Return the number of the patch whose newest commit by the Hub's tools has a name; None if there is none."""
    query = select(Patch.number).join(Push, Push.patch_id == Patch.id)
    number: int | None = session.scalar(query.where(Patch.model_id == model.id, Push.commit == commit))
    return number


def by_patch(session: Session, patch_id: uuid.UUID, *, lock: bool = False) -> Push:
    """Return the push of a patch by the patch's key, with its files, for the worker."""
    query = (
        select(Push)
        .where(Push.patch_id == patch_id)
        .options(joinedload(Push.patch), selectinload(Push.files))
        .execution_options(populate_existing=True)
    )
    return session.scalars(query.with_for_update(of=Push) if lock else query).one()


@dataclass(frozen=True)
class Compared:
    """What of a push makes a difference to its patch: files by their sha256, as far as they are here, and options."""

    sent: Mapping[str, str]
    deleted: Sequence[str]
    options: Mapping[str, Any]


def compared(push: Push) -> Compared:
    """Return what of a push makes a difference to its patch."""
    files = sorted(push.files, key=lambda file: file.path)
    sent = {file.path: file.blob_sha256 for file in files if file.blob_sha256}
    return Compared(sent, [file.path for file in files if file.sha256 is None], dict(push.options))


def finish(
    session: Session, model: Model, store: Store, patch_id: uuid.UUID, file: Path, made: Mapping[str, Any]
) -> None:
    """Make the next revision of the patch that a diff wrote, and let go of the weights.

    Args:
        session: A writing transaction, which has locked the model and the push.
        model: The model.
        store: Takes the patch file.
        patch_id: The patch.
        file: The patch file.
        made: Its `sha256` and `size`; `beside`, by their paths, files to come with it, each a file, its sha256, its
            bytes; the model's `settings` that it was made by; how far the weights have `moved`, and `notes` for its
            author, sentences.
    """
    sha256, size = made["sha256"], made["size"]
    written = {path: (Path(own), digest, count) for path, (own, digest, count) in made["beside"].items()}
    push = by_patch(session, patch_id)
    patch = session.get_one(Patch, patch_id, with_for_update=True, populate_existing=True)
    subject = f"{model.full_name}#{patch.number}"
    twin = revisions.find_twin(session, model, sha256)
    if patch.state not in patches.REVISABLE:
        fail(session, push, f"{subject} is {patch.state} and takes no more revisions; push a new patch.")
    elif twin is not None and (twin.patch_id, twin.number) == (patch.id, patch.revision):
        came = {file.path: file.sha256 for file in catalog_beside.files_of(session, twin)}
        if offers(session, model, push, written)[0] == came:
            push.state = "done"  # the newest revision is this very patch, as when a Trainer pushes its last save again
            let_go(session, push)
        else:
            fail(
                session,
                push,
                f"{subject} has this very patch already, and the files of a revision are fixed; push them as a new "
                "patch.",
            )
    elif twin is not None:
        fail(session, push, f"{model.full_name}#{twin.patch.number}.{twin.number} is the same patch, byte for byte.")
    else:
        quotas.locked(session, quotas.payer(session, patch.author_id))
        blobs.register(session, store, file, sha256, size)
        first = patch.revision == 0
        patch.revision += 1
        if first and push.propose:
            patch.state = "proposed"
        for own in written.values():
            blobs.register(session, store, *own)
        offered, sizes = offers(session, model, push, written)
        contribution = Contribution(
            sha256, push.title, push.message, patch.task, push.options.get("license"), tuple(sorted(offered.items()))
        )
        sizes = {**sizes, sha256: size}
        job = revisions.add_revision(session, patch.author_id, model, patch, contribution, sizes, push.origin)
        session.add(tell(uuid.UUID(job.payload["revision_id"]), made))
        push.state = "done"
        let_go(session, push)
        what = {"sha256": sha256, "state": patch.state} if first else {"revision": patch.revision, "sha256": sha256}
        action = "patch.push" if first else "patch.revise"
        record(session, None, action, subject, model, after=what)


def tell(revision: uuid.UUID, made: Mapping[str, Any]) -> Check:
    """Return what the comparison found, as a check that advises: it is where author and reviewers look."""
    moved, notes, settings = made["moved"], made["notes"], made["settings"]
    told = [
        "What was pushed was compared with the base"
        + (f"; norm(tuned - base) is {moved:.2g} of norm(base)." if moved else ".")
    ]
    if settings:
        told.append(f"By the model's settings: {', '.join(f'{name} {value}' for name, value in settings.items())}.")
    status, summary = "warn" if notes else "pass", " ".join([*told, *notes])
    return Check(revision_id=revision, name=CHECK, position=-1, required=False, status=status, summary=summary)


def withdraw(session: Session, actor: Actor, full_name: str, number: int) -> Push:
    """Close a pull request of which no patch was made; the caller has been admitted as its author.

    Raises:
        NotFound: There is no such pull request.
        WrongState: It is closed already.
    """
    model = models.ready(session, full_name, lock=True)
    push = find(session, model, number)
    if push is None or push.patch.revision:
        raise NotFound(f"There is no open pull request {full_name}#{number} without a patch.")
    if push.patch.state not in patches.REVISABLE:
        raise WrongState(f"{full_name}#{number} is {push.patch.state}.")
    before, push.patch.state = push.patch.state, "withdrawn"
    patches.close(session, push.patch)
    what = {"state": push.patch.state}
    record(session, actor, "patch.withdraw", f"{full_name}#{number}", model, before={"state": before}, after=what)
    return push


def offers(
    session: Session, model: Model, push: Push, made: Mapping[str, tuple[Path, str, int]]
) -> tuple[dict[str, str], dict[str, int]]:
    """Return the files that come with the patch of a push, and their sizes by sha256.

    Those are the ones that were made, and of the push the ones beside the weights that differ from the base's, the
    smallest first, as far as a patch takes them.
    """
    base = {file.path: file.sha256 for file in models.base_files(session, model)}
    offered = {path: sha256 for path, (_, sha256, _) in made.items()}
    sizes = {sha256: size for _, sha256, size in made.values()}
    room = beside.MOST_BYTES - sum(sizes.values())
    for file in sorted(push.files, key=lambda file: file.size):
        if file.blob_sha256 and file.blob_sha256 != base.get(file.path) and beside.may_come(file.path):
            room -= file.size
            if room < 0 or len(offered) == beside.MOST_FILES:
                break
            offered[file.path] = file.blob_sha256
            sizes[file.blob_sha256] = file.size
    return offered, sizes


def fail(session: Session, push: Push, error: str) -> None:
    """Say why a diff made no revision, and let go of the weights."""
    push.state, push.error = "failed", error
    let_go(session, push)


def let_go(session: Session, push: Push) -> None:
    """Let go of the bytes of a push's weights; which they were stays."""
    for file in push.files:
        if is_weights(file.path):
            file.blob_sha256 = None
    session.flush()
    author = session.scalars(select(Patch.author_id).where(Patch.id == push.patch_id)).one()
    quotas.recount(session, quotas.payer(session, author))

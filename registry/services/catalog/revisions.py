"""Revisions of patches: how they are pushed, numbered, checked and refused; patches.py finds them."""

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert
from sqlalchemy.orm import Session

from registry.db.tables import Check, Job, Model, Patch, PatchRevision, PatchTensor
from registry.db.tables.patches import MEASURED
from registry.errors import InvalidRequest, WrongState
from registry.services.blobs import blobs, quotas
from registry.services.catalog import beside, models, norms, patches
from registry.services.people import policies
from registry.services.people.actors import Actor, record
from registry.services.queue import jobs

ADVICE = ("norms", "release", beside.CHECK)  # checks that are not required


@dataclass(frozen=True)
class Contribution:
    """What a contributor sends for a patch; `files` are (path, sha256) of files beside its weights."""

    sha256: str
    title: str
    message: str
    task: str | None = None
    license: str | None = None
    files: tuple[tuple[str, str], ...] = ()


def push(
    session: Session, actor: Actor, full_name: str, contribution: Contribution, propose: bool = False
) -> tuple[PatchRevision, Job | None]:
    """Add an uploaded patch file to a model under the next number, as a draft or, if asked, proposed.

    Returns:
        The revision and its check job; no job if the author pushed the same file before and it is checked.

    Raises:
        NotFound, WrongState: The model does not exist or is not ready, or another user has pushed the same file.
        InvalidRequest: The bytes were not uploaded, or a file or the licence cannot come with a patch.
    """
    model = models.ready(session, full_name, lock=True)
    if (twin := find_twin(session, model, contribution.sha256)) is not None:
        if twin.patch.author_id != actor.user_id:
            raise WrongState(
                f"{full_name}#{twin.patch.number} by {twin.patch.author.name} is the same file.", field="sha256"
            )
        return twin, jobs.active(session, f"check:{twin.id}")
    policies.require_license(session, contribution.license, "The patch")
    quotas.lock_payer(session, actor.user_id)
    sizes = require_bytes(session, actor, model, contribution)
    model.patch_count += 1
    patch = Patch(
        model_id=model.id,
        number=model.patch_count,
        author_id=actor.user_id,
        task=contribution.task,
        state="proposed" if propose else "draft",
    )
    session.add(patch)
    session.flush()
    job = add_revision(session, actor.user_id, model, patch, contribution, sizes, actor.token.origin)
    subject = f"{full_name}#{patch.number}"
    after = {**logged(contribution), "state": patch.state}
    record(session, actor, "patch.push", subject, model, after=after)
    return patches.find(session, full_name, patch.number), job


def revise(
    session: Session, actor: Actor, full_name: str, number: int, contribution: Contribution
) -> tuple[PatchRevision, Job | None]:
    """Add the next revision to the author's patch: it is another file, so checks and approvals start again.

    Raises:
        WrongState: The patch has been decided on, or another revision is the same file.
        InvalidRequest: The bytes were not uploaded, or a file or the licence cannot come with a patch.
    """
    model = models.ready(session, full_name, lock=True)
    before = patches.find(session, full_name, number, lock=True)  # or it could be accepted meanwhile
    patch = before.patch
    if before.sha256 == contribution.sha256 and before.state != "refused":
        return before, jobs.active(session, f"check:{before.id}")
    if (twin := find_twin(session, model, contribution.sha256)) is not None:
        raise WrongState(f"{full_name}#{twin.patch.number}.{twin.number} is the same file.", field="sha256")
    if patch.state not in patches.REVISABLE:
        raise WrongState(f"{full_name}#{number} is {patch.state} and takes no more revisions; push a new patch.")
    policies.require_license(session, contribution.license, "The patch")
    quotas.lock_payer(session, patch.author_id)
    sizes = require_bytes(session, actor, model, contribution)
    patch.revision += 1
    job = add_revision(session, actor.user_id, model, patch, contribution, sizes, actor.token.origin)
    old = {"revision": before.number, "sha256": before.sha256}
    new = {"revision": patch.revision, **logged(contribution)}
    record(session, actor, "patch.revise", f"{full_name}#{number}", model, before=old, after=new)
    return patches.find(session, full_name, number), job


def find_twin(session: Session, model: Model, sha256: str) -> PatchRevision | None:
    """Return the revision of any patch of a model that is this same file, unless it was refused."""
    twin: PatchRevision | None = session.scalar(
        patches.revisions()
        .where(Patch.model_id == model.id, PatchRevision.sha256 == sha256, PatchRevision.state != "refused")
        .limit(1)
    )
    return twin


def logged(contribution: Contribution) -> dict[str, Any]:
    """Return what the audit log says of a contribution: the digests of its bytes."""
    return {"sha256": contribution.sha256, **({"files": dict(contribution.files)} if contribution.files else {})}


def require_bytes(session: Session, actor: Actor, model: Model, contribution: Contribution) -> dict[str, int]:
    """Return the sizes of the uploaded bytes of a contribution, by digest.

    Raises:
        InvalidRequest: Bytes were not uploaded, or a file cannot come with a patch of this model.
    """
    files = beside.named_once(contribution.files)
    known = blobs.readable(session, actor, [contribution.sha256, *files.values()])
    if contribution.sha256 not in known:
        raise InvalidRequest("The bytes of this patch are missing; upload them first.", field="sha256")
    for path, sha256 in files.items():
        if sha256 not in known:
            raise InvalidRequest(f"The bytes of {path} are missing; upload them first.", field="files")
    if files:
        beside.check(session, model, {path: known[sha256] for path, sha256 in files.items()})
    return known


def add_revision(
    session: Session,
    user: uuid.UUID,
    model: Model,
    patch: Patch,
    contribution: Contribution,
    sizes: Mapping[str, int],
    origin: dict[str, Any] | None = None,
) -> Job:
    """Add a patch's newest revision and enqueue its check; `sizes` are of its bytes, by digest."""
    quotas.charge(session, quotas.payer(session, patch.author_id), sizes)
    revision = PatchRevision(
        patch_id=patch.id,
        number=patch.revision or 1,
        state="checking",
        title=contribution.title,
        message=contribution.message,
        license=contribution.license,
        base_digest=model.base_digest,
        sha256=contribution.sha256,
        blob_sha256=contribution.sha256,
        size=sizes[contribution.sha256],
        origin=origin,
    )
    session.add(revision)
    session.flush()
    beside.add(session, revision, dict(contribution.files), sizes)
    payload = {"revision_id": str(revision.id)}
    subject = f"#{patch.number}" if revision.number == 1 else f"#{patch.number}.{revision.number}"
    more = sum(sizes.values())
    return jobs.enqueue(session, user, "check", f"check:{revision.id}", model, subject, payload, more_bytes=more)


def finish_check(
    session: Session, model: Model, revision: PatchRevision, subject: str, contents: dict[str, Any]
) -> None:
    """Record what a worker read in a sound file, and open the patch for composing."""
    verdicts = record_contents(session, model, revision, contents)
    revision.state = "checked"
    session.flush()
    record(session, None, "patch.checked", subject, model, after={"sha256": revision.sha256, "checks": verdicts})


def record_contents(
    session: Session, model: Model, revision: PatchRevision, contents: dict[str, Any]
) -> dict[str, str]:
    """Record what was read in a sound file; return the verdict of each check."""
    rows = [{"revision_id": revision.id, "position": at, **tensor} for at, tensor in enumerate(contents["tensors"])]
    session.execute(insert(PatchTensor), rows)
    for name in MEASURED:
        setattr(revision, name, contents[name])
    beside.finish_check(session, revision, contents["beside"])
    revision.norm = math.sqrt(math.fsum(tensor["l2"] ** 2 for tensor in contents["tensors"]))
    checks = [*contents["checks"], norms.check(session, model, revision, contents["tensors"])]
    for position, check in enumerate(checks):
        required = check["name"] not in ADVICE
        session.add(Check(revision_id=revision.id, position=position, required=required, **check))
    session.flush()
    return {check["name"]: check["status"] for check in checks}


def refuse(session: Session, model: Model, revision: PatchRevision, subject: str, error: str) -> None:
    """Refuse a revision and release its bytes; its number, texts and the reason are kept."""
    revision.state, revision.refusal, revision.blob_sha256 = "refused", error, None
    beside.let_go(session, revision)
    session.flush()
    quotas.recount(session, quotas.payer(session, revision.patch.author_id))
    record(session, None, "patch.refused", subject, model, after={"error": error})

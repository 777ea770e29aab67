"""Diffs of pushes: a worker makes the patch of a model that was sent by the Hub's tools."""

import uuid

from sqlalchemy.orm import Session

from registry.services.blobs import damage
from registry.services.catalog import models
from registry.services.hub import pushes
from registry.services.queue import jobs
from registry.worker.runner import Runner


def diff(runner: Runner, claim: jobs.Claim) -> None:
    """Compare what was pushed with the base, and make the patch's next revision of it, which is checked then."""
    patch_id = uuid.UUID(claim.payload["patch_id"])
    with runner.database.read() as session:
        model = runner.model(session, claim)
        base = {file.path: file.sha256 for file in models.base_files(session, model)}
        push = pushes.by_patch(session, patch_id)
        (sent, deleted), options = pushes.sent_files(push), push.options
    damage.require_sound(runner.database, runner.store, [*base.values(), *sent.values()])
    with (
        runner.base_here(claim),
        runner.store.folder(f"job-{claim.job_id.hex}-{claim.attempt}") as folder,
    ):
        made = runner.in_sandbox(
            claim,
            "registry.worker.tasks:diff",
            grows=True,
            base=runner.readable(base),
            sent={path: str(runner.store.path(sha256)) for path, sha256 in sent.items()},
            deleted=deleted,
            options=options,
            out=str(folder),
            device=runner.settings.device,
            device_memory=runner.settings.device_memory,
        )
        with runner.database.write() as session:
            job = jobs.hold(session, claim)
            model = models.find(session, runner.model(session, claim).full_name, lock=True)
            file = folder / "patch.safetensors"
            done = pushes.finish(session, runner.store, model, patch_id, sent, (file, made["sha256"], made["size"]))
            jobs.end(session, claim, "done")
            if not done:  # another commit came meanwhile
                pushes.ask(session, job.user_id, model, pushes.by_patch(session, patch_id))


def give_up(session: Session, claim: jobs.Claim, error: str) -> None:
    """Say on a push why no patch was made of it."""
    pushes.fail(session, pushes.by_patch(session, uuid.UUID(claim.payload["patch_id"]), lock=True), error)

"""Diffs of pushes: a worker makes the patch of a model that was sent by the Hub's tools."""

import uuid
from collections.abc import Callable

from sqlalchemy.orm import Session

from registry.db.tables import Model
from registry.errors import InvalidInput, JobFailed
from registry.services.blobs import damage
from registry.services.catalog import models
from registry.services.hub import origins, pushes
from registry.services.queue import jobs
from registry.worker.runner import Runner, concerning


def diff(runner: Runner, claim: jobs.Claim) -> None:
    """Compare what was pushed with the base, and make the patch's next revision of it, which is checked then."""
    with runner.database.read() as session:
        model = runner.model(session, claim)
        compared = pushes.compared(pushes.by_patch(session, patch_of(claim)))
        settings = {name: value for name, value in model.mask.items() if name not in compared.options}
        base = origins.files_of(session, model, compared.options)
        named = model.base_digest if compared.options.get(origins.OPTION) else None
    if not base:
        settle(runner, claim, compared, lambda session, _: give_up(session, claim, origins.GONE))
        return
    damage.require_sound(runner.database, runner.store, [*base.values(), *compared.sent.values()])
    with (
        runner.base_here(claim),
        runner.here(claim, {*concerning(base), *compared.sent.values()}),
        runner.store.folder(f"job-{claim.job_id.hex}-{claim.attempt}") as folder,
    ):
        try:
            made = runner.in_sandbox(
                claim,
                "registry.sandboxes.pushed:diff",
                grows=True,
                base=runner.readable(base),
                sent={path: str(runner.store.path(sha256)) for path, sha256 in compared.sent.items()},
                deleted=compared.deleted,
                options={**settings, **compared.options},
                named=named,
                out=str(folder),
                device=runner.settings.device,
                device_memory=runner.settings.device_memory,
            )
        except (InvalidInput, JobFailed) as error:
            reason = str(error)
            settle(runner, claim, compared, lambda session, _: give_up(session, claim, reason))
            return
        runner.store.send_ahead(folder / "patch.safetensors", made["sha256"], runner.beating(claim))
        finish = runner.store, patch_of(claim), folder / "patch.safetensors", {**made, "settings": settings}
        settle(runner, claim, compared, lambda session, model: pushes.finish(session, model, *finish))


def settle(
    runner: Runner, claim: jobs.Claim, compared: pushes.Compared, publish: Callable[[Session, Model], None]
) -> None:
    """End the job with its result, unless another commit came meanwhile: then that is compared instead."""
    with runner.database.write() as session:
        model = models.find(session, runner.model(session, claim).full_name, lock=True)  # before the job, as commits do
        job = jobs.hold(session, claim)
        push = pushes.by_patch(session, patch_of(claim), lock=True)
        if pushes.compared(push) == compared:
            publish(session, model)
            jobs.end(session, claim, "failed" if push.state == "failed" else "done", push.error)
            return
        jobs.end(session, claim, "done")
        if push.state == "diffing":
            pushes.ask(session, job.user_id, model, push)


def give_up(session: Session, claim: jobs.Claim, error: str) -> None:
    """Say on a push why no patch was made of it; the caller holds the model's lock."""
    pushes.fail(session, pushes.by_patch(session, patch_of(claim), lock=True), error)


def patch_of(claim: jobs.Claim) -> uuid.UUID:
    """Return the key of the patch that a job is about."""
    return uuid.UUID(claim.payload["patch_id"])

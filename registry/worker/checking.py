"""Checks of patches: a worker looks at a pushed file, at its base, and at the release that people get of the model."""

import uuid

from registry.errors import BlobDamaged
from registry.services.blobs import damage
from registry.services.catalog import beside, models, patches, revisions
from registry.services.composing import excerpts
from registry.services.queue import jobs
from registry.services.releasing import repeats
from registry.storage.pieces import Excerpt
from registry.worker.runner import Runner, concerning


def check_patch(runner: Runner, claim: jobs.Claim) -> None:
    """Check a pushed file against its model's base and record its statistics."""
    revision_id = uuid.UUID(claim.payload["revision_id"])
    with runner.database.read() as session:
        model = runner.model(session, claim)
        revision = patches.by_id(session, revision_id)
        tensors = [tensor[:3] for tensor in models.base_tensors(session, model)]
        files = {file.path: file.sha256 for file in models.base_files(session, model)}
        offered = {file.path: file.sha256 for file in beside.files_of(session, revision)}
        release = repeats.main_release(session, model, revision.patch_id)
    damage.require_sound(runner.database, runner.store, [revision.sha256, *offered.values(), *files.values()])
    release = release if release is not None and is_sound(runner, release) else None
    needed = {
        revision.sha256,
        *offered.values(),
        *(files[path] for path in offered if path in files),
        *(release.scales if release else ()),
    }
    with runner.base_here(claim), runner.here(claim, needed):
        touched = touched_of_base(runner, claim, revision.sha256)
        with runner.here(claim, concerning(files) - touched.keys(), touched.values()) as found:
            parts = {path: found[sha256] for path, sha256 in files.items() if sha256 in touched}
            contents = runner.in_sandbox(
                claim,
                "registry.sandboxes.tasks:check_patch",
                path=str(runner.store.path(revision.sha256)),
                sha256=revision.sha256,
                base=model.base_digest,
                tensors=tensors,
                files=runner.readable(files) | parts,
                beside={path: runner.pair(sha256, files.get(path)) for path, sha256 in offered.items()},
                release=None
                if release is None
                else (
                    release.version,
                    [(scale, str(runner.store.path(sha256))) for sha256, scale in release.scales.items()],
                ),
            )
    with runner.database.write() as session:
        revision, subject = patches.by_id(session, revision_id), claim.model + claim.subject
        revisions.finish_check(session, runner.model(session, claim), revision, subject, contents)
        jobs.end(session, claim, "done")


def touched_of_base(runner: Runner, claim: jobs.Claim, sha256: str) -> dict[str, Excerpt]:
    """Return what a check needs of the base's weight files, where they are fetched: the tensors that a patch touches.

    Args:
        runner: Runs the job.
        claim: The job.
        sha256: Of the patch, which is here.
    """
    if runner.store.kind == "disk":
        return {}
    task = "registry.sandboxes.tasks:list_touched"
    touched = runner.in_sandbox(claim, task, done=(0.0, 0.0), path=str(runner.store.path(sha256)))
    with runner.database.read() as session:
        return excerpts.of_base(session, runner.model(session, claim), touched)


def is_sound(runner: Runner, release: repeats.CheckedAgainst) -> bool:
    """Say whether the patches of a release can be read; if not, that is no fault of the patch that is checked."""
    try:
        damage.require_sound(runner.database, runner.store, list(release.scales))
    except BlobDamaged:
        return False
    return True

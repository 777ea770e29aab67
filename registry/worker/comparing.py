"""Comparisons: a worker finds out where patches meet."""

from registry.services.blobs import damage
from registry.services.composing import conflict_sums, conflicts
from registry.services.queue import jobs
from registry.worker.runner import Runner


def compare(runner: Runner, claim: jobs.Claim) -> None:
    """Compare patches pair by pair, in rounds whose results fit into memory, and record the conflicts."""
    with runner.database.read() as session:
        model = runner.model(session, claim)
        rounds = conflicts.rounds(session, model, claim.payload["patches"], claim.payload["pairs"])
    damage.require_sound(runner.database, runner.store, claim.payload["patches"])
    for number, (digests, pairs) in enumerate(rounds):
        with runner.here(claim, digests):
            computed = runner.in_sandbox(
                claim,
                "registry.sandboxes.tasks:conflicts",
                done=(number / len(rounds), 1 / len(rounds)),
                patches={sha256: str(runner.store.path(sha256)) for sha256 in digests},
                pairs=pairs,
                device=runner.settings.device,
                device_memory=runner.settings.device_memory,
            )
        with runner.database.write() as session:
            jobs.hold(session, claim)
            conflict_sums.finish(session, digests, computed)
    with runner.database.write() as session:
        jobs.end(session, claim, "done")

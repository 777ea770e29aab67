"""A job in the hands of a worker that does nothing with it, as when it works for long or is dead."""

from registry.db.tables import Job, now
from registry.services.composing import compositions, conflicts
from registry.services.composing.mixes import Ingredient, Mix
from registry.services.queue import jobs
from tests.support.community import NAME, Community

LONG = jobs.LONGEST_DELAY  # as far ahead as a lease may be


def held(community: Community, number: int) -> jobs.Claim:
    """Have bob ask for a recipe of one patch, and a worker claim the job before any other can."""
    with community.world.database.write() as session:
        actor = community.actor(session, "bob")
        _, _, job = compositions.request(session, actor, NAME, Mix([Ingredient(number)]))
        return claimed(job)


def held_comparison(community: Community, *numbers: int) -> jobs.Claim:
    """Have bob ask for the conflicts of patches, and a worker claim the job before any other can."""
    with community.world.database.write() as session:
        actor, model = community.actor(session, "bob"), community.model(session)
        session.refresh(model, ["namespace"])
        rows = conflicts.find(session, actor, model, [(number, None) for number in numbers])
        return claimed(conflicts.ask(session, actor, model, rows))


def claimed(job: Job | None) -> jobs.Claim:
    """Give a job to a worker that does nothing."""
    assert job is not None
    job.state, job.worker, job.lease_until, job.attempt = "running", "idle", now() + LONG, 1
    return jobs.Claim(job.id, 1, 0, job.kind, job.model, job.subject, job.payload)


def beat(community: Community, claim: jobs.Claim, progress: float) -> None:
    """Say how far the worker is."""
    with community.world.database.write() as session:
        jobs.heartbeat(session, claim, progress, LONG)

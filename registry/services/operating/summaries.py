"""Server statistics: how many users, models, patches, blobs, jobs and reports there are."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.db.tables import PATCH_STATES, STORED, Blob, Model, Patch, User
from registry.services.blobs import damage
from registry.services.operating import reports
from registry.services.queue import abilities, jobs


@dataclass(frozen=True)
class Summary:
    """The counts: patches and jobs by state, blobs and their bytes without those that stay at a Hub.

    `unclaimable_jobs` are jobs that wait and that no living worker can do, by kind.
    """

    users: int
    models: int
    patches: dict[str, int]
    blobs: int
    blob_bytes: int
    damaged_blobs: int
    jobs: dict[str, int]
    unclaimable_jobs: dict[str, int]
    open_reports: int


def summary(session: Session) -> Summary:
    """Return how many there are of everything."""
    stored = select(func.count(), func.coalesce(func.sum(Blob.size), 0)).where(Blob.state.in_(STORED))
    blobs, size = session.execute(stored).one()
    patches, work = dict.fromkeys(PATCH_STATES, 0), dict.fromkeys(jobs.STATES, 0)
    for state, number in session.execute(select(Patch.state, func.count()).group_by(Patch.state)):
        patches[state] += number
    for _, state, number in jobs.count_by_state(session):
        work[state] += number
    return Summary(
        users=session.scalars(select(func.count()).select_from(User)).one(),
        models=session.scalars(select(func.count()).select_from(Model)).one(),
        patches=patches,
        blobs=blobs,
        blob_bytes=int(size),
        damaged_blobs=damage.count(session),
        jobs=work,
        unclaimable_jobs=abilities.count_unclaimable(session),
        open_reports=reports.count_open(session),
    )

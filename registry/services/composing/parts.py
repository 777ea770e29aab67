"""Parts of compositions that are under way: each weight file is recorded once its bytes are durable.

    composed ── bytes durable ── row of the part ──> the job is taken over, or goes on: this file is not composed again
                                     └─ another result of the same part ──> the alarm

A part is a function of the recipe, so it counts whichever attempt of the job brought it, also one whose lease was lost
meanwhile: the attempt fences off the job, and not what is true anyway. The rows of a job's parts vanish once the job is
over, and bytes that no held composition has go with them. Composing again, to compare results, uses no parts at all.
"""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, func, or_, select
from sqlalchemy.orm import Session

from registry.breadcrumbs.formats.digest import weights_digest
from registry.db.session import Database
from registry.db.tables import ACTIVE_JOBS, STORED, Blob, Job, JobPart, Model, now
from registry.services.blobs import blobs, garbage
from registry.services.catalog import models
from registry.services.composing import builds, holding
from registry.services.people.actors import record
from registry.services.queue import jobs
from registry.storage.store import Store

SWEPT_WITHIN = timedelta(hours=1)  # a worker forgets parts every few minutes
Tensors = Sequence[tuple[str, str, Sequence[int], str]]


@dataclass(frozen=True)
class ComposedPart:
    """A composed weight file.

    Args:
        path: Its name in the model.
        sha256: Of its bytes.
        size: In bytes.
        tensors: The sha256 of each of its tensors.
        negative: How many variances of batch norm became negative, by tensor.
        builder: Who composed it: a worker, or a node of a cluster.
        device: Where.
        seconds: How long that took.
    """

    path: str
    sha256: str
    size: int
    tensors: Mapping[str, str]
    negative: Mapping[str, int]
    builder: str
    device: str
    seconds: float


def add(
    session: Session,
    store: Store,
    claim: jobs.Claim,
    model: Model,
    recipe: str,
    part: ComposedPart,
    staged: Path | None,
    *,
    stored: bool,
) -> bool:
    """Record a part of a composition that is under way; say whether it has the result that was recorded before.

    A difference is an alarm, of which the log is told here, and the recipe by `alarm`.

    Args:
        session: A writing transaction.
        store: Has the bytes.
        claim: The job.
        model: The model.
        recipe: The digest of the recipe.
        part: The part.
        staged: The file, to become a blob; None if it is not kept, or if the store has been given its bytes.
        stored: Whether its bytes are kept.

    Raises:
        LeaseLost: The job is over.
        StorageFull, StorageFailed, Unavailable: As of `blobs.register`.
    """
    job = session.get(Job, claim.job_id, with_for_update=True, populate_existing=True)
    if job is None or job.state != "running":
        raise jobs.LeaseLost
    if stored:
        blobs.register(session, store, staged, part.sha256, part.size)
    blob = part.sha256 if stored else None
    known = list(session.scalars(select(JobPart).where(JobPart.job_id == job.id, JobPart.path == part.path)))
    same = next((row for row in known if row.sha256 == part.sha256), None)
    if same is not None:
        same.blob_sha256 = blob or same.blob_sha256
    else:
        session.add(
            JobPart(
                job_id=job.id,
                path=part.path,
                sha256=part.sha256,
                blob_sha256=blob,
                size=part.size,
                tensors=dict(part.tensors),
                negative=dict(part.negative),
                builder=part.builder,
                device=part.device,
                seconds=part.seconds,
            )
        )
        if known:
            results = {row.sha256: row.builder for row in known} | {part.sha256: part.builder}
            after = {"recipe": recipe, "file": part.path, "results": results}
            record(session, None, "recipe.alarm", model.full_name, model, after=after)
    session.flush()
    return same is not None or not known


def recorded(session: Session, job_id: uuid.UUID) -> dict[str, list[JobPart]]:
    """Return the results of each part of a job, oldest first, by path."""
    found: dict[str, list[JobPart]] = {}
    query = select(JobPart).where(JobPart.job_id == job_id).order_by(JobPart.path, JobPart.created_at, JobPart.sha256)
    for row in session.scalars(query):
        found.setdefault(row.path, []).append(row)
    return found


def stored_bytes(session: Session, job_id: uuid.UUID) -> int:
    """Return the bytes that the parts of a job take where blobs are."""
    kept = select(JobPart.path, JobPart.size).where(JobPart.job_id == job_id, JobPart.blob_sha256.is_not(None))
    return sum(dict(session.execute(kept.order_by(JobPart.created_at.desc())).all()).values())


def finished(session: Session, store: Store, job_id: uuid.UUID, *, stored: bool) -> set[str]:
    """Return the paths of the parts that need not be composed again; with `stored`, because their bytes are here."""
    rows = session.execute(select(JobPart.path, JobPart.blob_sha256).where(JobPart.job_id == job_id)).all()
    if not stored:
        return {row.path for row in rows}
    named = {row.blob_sha256 for row in rows if row.blob_sha256}
    query = select(Blob.sha256, Blob.size).where(Blob.sha256.in_(named), Blob.state.in_(STORED))
    sizes = dict(session.execute(query.where(Blob.damaged_at.is_(None))).all())
    sound = {sha256 for sha256, size in sizes.items() if store.holds(sha256, size)}
    return {row.path for row in rows if row.blob_sha256 in sound}


def alarm(session: Session, model: Model, recipe: str, job_id: uuid.UUID) -> str | None:
    """Record as builds that the parts of a composition came to different results; return a sentence about it, if so.

    The builds are of those who composed the first part that differs, each with the weights digest that their result of
    it leads to. So they disagree as two compositions do, and nothing is published on the recipe.

    Args:
        session: A writing transaction, with the job locked if no other result may come after.
        model: The model.
        recipe: The digest of the recipe.
        job_id: The job.
    """
    differing = select(JobPart.path).where(JobPart.job_id == job_id).group_by(JobPart.path).having(func.count() > 1)
    path = session.scalar(differing.order_by(JobPart.path).limit(1))
    if path is None:  # as nearly always: nothing else is read then
        return None
    results, tensors = recorded(session, job_id), models.base_tensors(session, model)
    if sum(len(rows[0].tensors) for rows in results.values()) < len(tensors):
        return None
    known = {build.builder: build.weights_digest for build in builds.builds_of(session, model.id, recipe)}
    builders: dict[str, str] = {}
    for row in results[path]:
        digest = digest_of(tensors, [row, *(rows[0] for other, rows in results.items() if other != path)])
        name = row.builder
        while name in builders or known.get(name, digest) != digest:
            name += " again"
        builders[name] = row.sha256
        builds.add(session, model, recipe, name, None, digest, row.device)
    told = " and ".join(f"{builder} came to {sha256}" for builder, sha256 in builders.items())
    return (
        f"ALARM: weight file {path} was composed to different results: {told}. Nothing is published on this recipe; an "
        "operator must find the machine that is wrong."
    )


def digest_of(tensors: Tensors, parts: Collection[JobPart | ComposedPart]) -> str:
    """Return the weights digest of a composition that has these parts.

    Args:
        tensors: (name, dtype, shape, sha256) of the tensors of the base.
        parts: All of its weight files.
    """
    digests = {name: sha256 for part in parts for name, sha256 in part.tensors.items()}
    return weights_digest((name, dtype, shape, digests[name]) for name, dtype, shape, _ in tensors)


def check(database: Database) -> list[str]:
    """Return a sentence for each part that is left of a job that was over long ago: its bytes are kept for nothing."""
    over = select(JobPart.job_id, JobPart.path).join(Job).where(Job.state.not_in(ACTIVE_JOBS))
    over = over.where(or_(Job.finished_at.is_(None), Job.finished_at < now() - SWEPT_WITHIN))
    with database.read() as session:
        return [
            f"The job {job_id} is over, and its part {path} is still recorded; `crumb-server gc` forgets it."
            for job_id, path in session.execute(over.order_by(JobPart.job_id, JobPart.path))
        ]


def forget(database: Database, store: Store) -> int:
    """Forget the parts of jobs that are over, and let go of bytes that are there for them alone; return how many.

    Those of a composition that is held now stay with it.
    """
    over, count = select(JobPart.job_id).join(Job).where(Job.state.not_in(ACTIVE_JOBS)).distinct(), 0
    with database.read() as session:
        jobs_over = session.scalars(over.order_by(JobPart.job_id)).all()
    for job_id in jobs_over:
        with store.holding(garbage.LOCK, shared=True) as locked:  # not while a backup copies blobs
            if not locked:
                return count
            with database.write() as session:
                gone, parts = let_go(session, store, job_id)
            holding.drop(store, gone)
            count += parts
    return count


def let_go(session: Session, store: Store, job_id: uuid.UUID) -> tuple[list[str], int]:
    """Delete the rows of a job's parts; return the digests of files to be dropped after, and how many rows.

    The caller holds `garbage.LOCK`.
    """
    rows = session.execute(select(JobPart.path, JobPart.blob_sha256).where(JobPart.job_id == job_id)).all()
    named = sorted({sha256 for _, sha256 in rows if sha256})
    locked = [blob for sha256 in named if (blob := blobs.get_locked(session, sha256))]
    session.execute(delete(JobPart).where(JobPart.job_id == job_id))
    free = select(Blob.sha256).where(Blob.sha256.in_(named), holding.alone(), ~holding.in_held())
    gone = set(session.scalars(free))
    for blob in locked:
        if blob.sha256 in gone:
            holding.compute_from_now_on(store, blob)
    session.flush()
    return sorted(gone), len(rows)

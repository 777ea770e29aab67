"""Conflicts between patches of a model: asked for by a user, computed by a worker, and known from then on.

Only pairs among the patches that somebody names are computed, and each pair once, whichever set it is asked for in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from sqlalchemy import select, union_all
from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.sums import Sums
from registry.db.tables import Job, Model, Patch, PatchPair, PatchRevision, PatchSet
from registry.errors import Forbidden, InvalidRequest, NotCompared, NotFound, WrongState
from registry.services.catalog import models, patches
from registry.services.composing import compositions, conflict_sums, snapshots
from registry.services.people import access
from registry.services.people.actors import Actor, record
from registry.services.queue import jobs
from registry.services.queue.limits import JobLimits, require_few

MOST_PATCHES = 64  # that are compared at once
DEFAULT_PATCHES = 16  # that are compared when nobody names any
SUBJECT_LENGTH = 80  # characters of a job's subject
TENSORS_PER_ROUND = 100_000  # of all pairs, in one answer of a sandbox


@dataclass(frozen=True)
class KnownConflicts:
    """What is known of the conflicts between some patches.

    Args:
        revisions: The patches.
        source: Where they come from if nobody named them: the version of a release, or `accepted`.
        pairs: The pairs that are known, each in the order of `revisions`.
        missing: How many pairs are not known.
        census: For each tensor that a patch touches, how many weights are touched by 0, 1, 2, ... of them, if known.
        touched: The same for the whole base.
        energy: For each tensor, the share of each patch in the sum of their squared norms.
        job: The job that computes what is missing, if there is one.
    """

    revisions: Sequence[PatchRevision]
    source: str | None = None
    pairs: list[tuple[PatchRevision, PatchRevision, Sums]] = field(default_factory=list)
    missing: int = 0
    census: dict[str, list[int]] | None = None
    touched: list[int] | None = None
    energy: dict[str, list[float]] = field(default_factory=dict)
    job: Job | None = None


def choose(
    session: Session, actor: Actor | None, model: Model, named: Sequence[tuple[int, int | None]]
) -> tuple[list[PatchRevision], str | None]:
    """Return the patches to compare, and where they come from if none are named.

    If none are named, these are the patches of the release that `main` stands for, else the newest accepted ones; at
    most the 16 newest, and none that is quarantined.

    Args:
        session: A transaction.
        actor: The caller.
        model: The model.
        named: Number and revision of each patch; its newest revision if None.

    Raises:
        NotFound: No such patch exists.
        InvalidRequest: A patch is named twice, or more than 64 are named.
        WrongState, Forbidden: A patch is not checked, or is quarantined.
    """
    if named:
        return find(session, actor, model, named), None
    query = patches.revisions().where(
        Patch.model_id == model.id, PatchRevision.state == "checked", Patch.quarantined_at.is_(None)
    )
    release = snapshots.default_release(session, model)
    if release is not None:
        recipe = compositions.load(session, release.recipe_digest)
        query = query.where(PatchRevision.sha256.in_([item.sha256 for item in recipe.items]))
    else:
        query = query.where(Patch.state == "accepted", Patch.revision == PatchRevision.number)
    rows = session.scalars(query.order_by(Patch.number.desc()).limit(DEFAULT_PATCHES)).all()
    return list(reversed(rows)), release.version if release else "accepted"


def find(
    session: Session, actor: Actor | None, model: Model, named: Sequence[tuple[int, int | None]]
) -> list[PatchRevision]:
    """Return patches that the caller may compare, by number and revision, in their order.

    Raises:
        NotFound: No such patch exists.
        InvalidRequest: A patch is named twice, or more than 64 are named.
        WrongState, Forbidden: A patch is not checked, or is quarantined.
    """
    if len(named) > MOST_PATCHES:
        raise InvalidRequest(f"At most {MOST_PATCHES} patches are compared at once; name fewer.", field="patches")
    query = patches.revisions().where(patches.numbered(session, model, [number for number, _ in named]))
    by_name = {(row.patch.number, row.number): row for row in session.scalars(query)}
    newest = {row.patch.number: row.patch.revision for row in by_name.values()}
    chosen: dict[str, PatchRevision] = {}
    for number, wanted in named:
        subject = f"{model.full_name}#{number}" + (f".{wanted}" if wanted else "")
        revision = by_name.get((number, wanted or newest.get(number, 0)))
        if revision is None:
            raise NotFound(f"There is no patch {subject}; see `crumb log {model.full_name}`.")
        if revision.patch.quarantined_at is not None and not (actor and actor.admin):
            raise Forbidden(f"{subject} is quarantined; only an admin may compare it.")
        if revision.state != "checked":
            raise WrongState(f"{subject} is {revision.state}; only checked patches can be compared.")
        if revision.sha256 in chosen:
            raise InvalidRequest(f"{subject} is named twice; name each patch once.", field="patches")
        chosen[revision.sha256] = revision
    return list(chosen.values())


def known_conflicts(
    session: Session, model: Model, revisions: Sequence[PatchRevision], source: str | None = None
) -> KnownConflicts:
    """Return what is known of the conflicts between patches, and the job that computes the rest, if there is one."""
    if len(revisions) < 2:
        return KnownConflicts(revisions, source, energy=conflict_sums.energy(session, revisions))
    digests = [revision.sha256 for revision in revisions]
    rows = conflict_sums.pairs_of(session, digests)
    pairs = [
        (one, two, conflict_sums.ordered(one.sha256, two.sha256, rows[key]))
        for one, two in combinations(revisions, 2)
        if (key := conflict_sums.key_of(one.sha256, two.sha256)) in rows
    ]
    missing = len(digests) * (len(digests) - 1) // 2 - len(pairs)
    census = session.scalar(select(PatchSet.census).where(PatchSet.digest == conflict_sums.set_digest(digests)))
    job = jobs.active(session, job_key(model, digests)) if missing or census is None else None
    touched = None if census is None else conflict_sums.touched_by(model, len(digests), census.values())
    return KnownConflicts(
        revisions, source, pairs, missing, census, touched, conflict_sums.energy(session, revisions), job
    )


def ask(session: Session, actor: Actor, model: Model, revisions: Sequence[PatchRevision]) -> Job | None:
    """Have the conflicts that are not known computed. Does nothing if that was asked for before.

    Args:
        session: A writing transaction.
        actor: The caller.
        model: The model, locked.
        revisions: The patches, as `choose` returns them.

    Returns:
        The job, or None if all is known.

    Raises:
        InvalidRequest: Fewer than two patches are given.
    """
    if len(revisions) < 2:
        raise InvalidRequest(f"{model.full_name} has no two patches to compare; name two or more.", field="patches")
    digests = sorted(revision.sha256 for revision in revisions)
    known = conflict_sums.pairs_of(session, digests)
    missing = [pair for pair in combinations(digests, 2) if pair not in known]
    if not missing and session.get(PatchSet, conflict_sums.set_digest(digests)) is not None:
        return None
    key = job_key(model, digests)
    active = jobs.active(session, key)
    before = (active.shared, active.cancel_requested) if active else None
    names = [name_of(revision) for revision in revisions]
    subject = ", ".join(names)
    subject = subject if len(subject) <= SUBJECT_LENGTH else f"{len(names)} patches"
    payload = {"patches": digests, "pairs": missing}
    more = sum(revision.size for revision in revisions)
    job = jobs.enqueue(session, actor.user_id, "conflicts", key, model, subject, payload, more_bytes=more)
    if (job.shared, job.cancel_requested) != before:
        record(session, actor, "conflict.ask", model.full_name, model, after={"patches": names})
    return job


def pair(
    session: Session,
    actor: Actor | None,
    model: Model,
    first: tuple[int, int | None],
    second: tuple[int, int | None],
) -> tuple[PatchRevision, PatchRevision, Sums, dict[str, Sums]]:
    """Return the conflict of a pair of patches, as a whole and by tensor.

    Raises:
        NotFound: No such patch exists, or the pair has not been compared; the message says how to do so.
        InvalidRequest, WrongState, Forbidden: As `find` raises them.
    """
    one, two = find(session, actor, model, [first, second])
    low, high = conflict_sums.key_of(one.sha256, two.sha256)
    query = select(PatchPair.sums, PatchPair.tensors).where(
        PatchPair.first_sha256 == low, PatchPair.second_sha256 == high
    )
    row = session.execute(query).one_or_none()
    if row is None:
        names = f"{name_of(one)} and {name_of(two)}"
        raise NotFound(
            f"The conflict of {names} of {model.full_name} is not computed yet; have it computed with "
            f"`crumb conflicts {model.full_name} {name_of(one)[1:]} {name_of(two)[1:]}`."
        )
    tensors = {name: conflict_sums.ordered(one.sha256, two.sha256, sums) for name, sums in row.tensors.items()}
    return one, two, conflict_sums.ordered(one.sha256, two.sha256, row.sums), tensors


def conflicts_of_patch(
    session: Session, actor: Actor | None, model: Model, revision: PatchRevision, limit: int
) -> list[tuple[PatchRevision, Sums]]:
    """Return the known conflicts of a patch with others of its model, the newest first, without quarantined ones."""
    if revision.state != "checked" or not (revision.patch.quarantined_at is None or (actor and actor.admin)):
        return []
    mine = revision.sha256
    both = union_all(
        select(PatchPair.second_sha256.label("other"), PatchPair.sums).where(PatchPair.first_sha256 == mine),
        select(PatchPair.first_sha256.label("other"), PatchPair.sums).where(PatchPair.second_sha256 == mine),
    ).subquery()
    query = (
        patches.revisions()
        .add_columns(both.c.sums)
        .join(both, both.c.other == PatchRevision.sha256)
        .where(Patch.model_id == model.id, PatchRevision.state == "checked")
        .order_by(Patch.number.desc(), PatchRevision.number.desc())
        .limit(limit)
    )
    if not (actor and actor.admin):
        query = query.where(Patch.quarantined_at.is_(None))
    return [(other, conflict_sums.ordered(mine, other.sha256, sums)) for other, sums in session.execute(query)]


def rounds(
    session: Session, model: Model, digests: Sequence[str], pairs: Sequence[Sequence[str]]
) -> list[tuple[list[str], list[conflict_sums.Pair]]]:
    """Return what a job still has to compare, in rounds that fit into an answer of a sandbox: patches, and pairs.

    Raises:
        InvalidRequest: A patch is no longer listed.
    """
    listed = patches.by_digest(session, model, digests)
    for sha256 in digests:
        if sha256 not in listed:
            raise InvalidRequest(f"The patch {sha256} is no longer listed in {model.full_name}; compare the others.")
    known = conflict_sums.pairs_of(session, digests)
    left = [(first, second) for first, second in pairs if (first, second) not in known]
    step = max(1, TENSORS_PER_ROUND // max(1, models.count_tensors(session, model)))
    planned = [(list(digests), left[:step])]  # the census is over all patches
    for start in range(step, len(left), step):
        some = left[start : start + step]
        planned.append((sorted({sha256 for pair in some for sha256 in pair}), some))
    return planned


def job_key(model: Model, digests: Iterable[str]) -> str:
    """Return the key of the job that compares these patches of a model; one such job is active at a time."""
    return f"conflicts:{model.id}:{conflict_sums.set_digest(digests)}"


def name_of(revision: PatchRevision) -> str:
    """Return `#3` for a first revision, `#3.2` for a later one."""
    return f"#{revision.patch.number}" + (f".{revision.number}" if revision.number > 1 else "")


def ask_for_missing(session: Session, actor: Actor, why: NotCompared, limits: JobLimits) -> NotCompared:
    """Have the patches of an error compared, as whoever may ask for that can; return the error with the job.

    Raises:
        Forbidden: The caller may not ask for it.
        TooMany: There are too many jobs.
    """
    namespace, _, name = why.model.partition("/")
    access.admit(session, actor, "conflict.ask", {"namespace": namespace, "name": name})
    model = models.ready(session, why.model, lock=True)
    job = ask(session, actor, model, find(session, actor, model, why.patches))
    if job is None:  # another request has had them compared at this moment
        return NotCompared("These patches were compared just now; send the same request again.", field="alpha")
    require_few(session, job, limits)
    message = (
        f"Alpha auto goes by how these patches overlap, and job {job.id} compares them now; send the same request "
        "again when it has ended, or give a decimal."
    )
    return NotCompared(message, field=why.field, model=why.model, patches=why.patches, job=str(job.id))

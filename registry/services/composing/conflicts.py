"""Where patches of a model meet: asked for, computed by a worker, known from then on.

What is known of a pair, and of how many patches touch a weight, is kept by content alone, so that a pair is computed
once whatever set it is asked for in. Only pairs among the patches that somebody names are computed.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

from sqlalchemy import Dialect, func, select, union_all
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from registry.breadcrumbs.comparing.sums import Sums, total
from registry.db.tables import BaseTensor, Job, Model, Patch, PatchPair, PatchRevision, PatchSet, PatchTensor, Table
from registry.errors import Forbidden, InvalidRequest, NotFound, WrongState
from registry.services.catalog import patches
from registry.services.composing import compositions, snapshots
from registry.services.people.actors import Actor, record
from registry.services.queue import jobs

MOST = 64  # patches that are compared at once
CHOSEN = 16  # of them when nobody names any
SUBJECT = 80  # letters that a job has for what it is about
ROUND = 100_000  # tensors of pairs that one answer of a sandbox holds
ROWS = 200  # that are written by one statement

Pair = tuple[str, str]


@dataclass(frozen=True)
class KnownConflicts:
    """What is known of where some patches meet.

    Args:
        revisions: The patches.
        source: Where they are from when nobody named them: the version of a release, or `accepted`.
        pairs: Those that are known, each in the order of `revisions`.
        missing: How many pairs are not.
        census: Of each tensor that a patch touches, how many weights are touched by 0, 1, 2, ... of them, if known.
        touched: The same over the whole base.
        energy: Of each tensor, the share of each patch in the sum of their squared norms.
        job: The job that finds out what is missing, while there is one.
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
    """Return the patches to compare, and where they are from when none are named.

    Those are the patches of the release that the model is pulled as, else the newest accepted ones; of more than 16 the
    newest, and none that is quarantined.

    Args:
        session: A transaction.
        actor: Who asks.
        model: The model.
        named: Number and revision of each; its newest when None.

    Raises:
        NotFound: there is no such patch.
        InvalidRequest: one is named twice, or there are more than 64.
        WrongState, Forbidden: one is not checked, or quarantined.
    """
    if named:
        return find(session, actor, model, named), None
    query = patches.revisions().where(
        Patch.model_id == model.id, PatchRevision.state == "checked", Patch.quarantined_at.is_(None)
    )
    release, _ = snapshots.default_release(session, model)
    if release is not None:
        recipe = compositions.load(session, release.recipe_digest)
        query = query.where(PatchRevision.sha256.in_([item.sha256 for item in recipe.items]))
    else:
        query = query.where(Patch.state == "accepted", Patch.revision == PatchRevision.number)
    found = session.scalars(query.order_by(Patch.number.desc()).limit(CHOSEN)).all()
    return list(reversed(found)), release.version if release else "accepted"


def find(
    session: Session, actor: Actor | None, model: Model, named: Sequence[tuple[int, int | None]]
) -> list[PatchRevision]:
    """Return patches that somebody may compare, by number and revision, in their order.

    Raises:
        NotFound: there is no such patch.
        InvalidRequest: one is named twice, or there are more than 64.
        WrongState, Forbidden: one is not checked, or quarantined.
    """
    if len(named) > MOST:
        raise InvalidRequest(f"At most {MOST} patches are compared at once; name fewer.", field="patches")
    query = patches.revisions().where(Patch.model_id == model.id, Patch.number.in_([number for number, _ in named]))
    there = {(found.patch.number, found.number): found for found in session.scalars(query)}
    newest = {found.patch.number: found.patch.revision for found in there.values()}
    chosen: dict[str, PatchRevision] = {}
    for number, revision in named:
        subject = f"{model.full_name}#{number}" + (f".{revision}" if revision else "")
        found = there.get((number, revision or newest.get(number, 0)))
        if found is None:
            raise NotFound(f"There is no patch {subject}.")
        if found.patch.quarantined_at is not None and not (actor and actor.admin):
            raise Forbidden(f"{subject} is quarantined; only an admin may compare it.")
        if found.state != "checked":
            raise WrongState(f"{subject} is {found.state}; only checked patches can be compared.")
        if found.sha256 in chosen:
            raise InvalidRequest(f"{subject} is named twice; a patch is compared with others.", field="patches")
        chosen[found.sha256] = found
    return list(chosen.values())


def known_conflicts(
    session: Session, model: Model, found: Sequence[PatchRevision], source: str | None = None
) -> KnownConflicts:
    """Return what is known of where patches meet, and the job that finds out more, while there is one."""
    if len(found) < 2:
        return KnownConflicts(found, source, energy=energy(session, found))
    digests = [revision.sha256 for revision in found]
    rows = pairs_of(session, digests)
    pairs = [
        (one, two, ordered(one.sha256, two.sha256, rows[key]))
        for one, two in combinations(found, 2)
        if (key := key_of(one.sha256, two.sha256)) in rows
    ]
    missing = len(digests) * (len(digests) - 1) // 2 - len(pairs)
    census = session.scalar(select(PatchSet.census).where(PatchSet.digest == set_digest(digests)))
    job = jobs.active(session, job_key(model, digests)) if missing or census is None else None
    touched = None if census is None else touched_by(model, len(digests), census.values())
    return KnownConflicts(found, source, pairs, missing, census, touched, energy(session, found), job)


def ask(session: Session, actor: Actor, model: Model, found: Sequence[PatchRevision]) -> Job | None:
    """Have what is not known of where patches meet computed; said once more, it changes nothing.

    Args:
        session: A writing transaction.
        actor: Who asks.
        model: The model, locked.
        found: The patches, as `choose` returns them.

    Returns:
        The job, or None when all is known.

    Raises:
        InvalidRequest: there are fewer than two.
    """
    if len(found) < 2:
        raise InvalidRequest(
            f"There are no two patches of {model.full_name} to compare; name two or more.", field="patches"
        )
    digests = sorted(revision.sha256 for revision in found)
    there = pairs_of(session, digests)
    missing = [pair for pair in combinations(digests, 2) if pair not in there]
    if not missing and session.get(PatchSet, set_digest(digests)) is not None:
        return None
    key = job_key(model, digests)
    active = jobs.active(session, key)
    before = (active.shared, active.cancel_requested) if active else None
    names = [name_of(revision) for revision in found]
    subject = ", ".join(names)
    subject = subject if len(subject) <= SUBJECT else f"{len(names)} patches"
    payload = {"patches": digests, "pairs": missing}
    job = jobs.enqueue(session, actor.user_id, "conflicts", key, model, subject, payload)
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
    """Return what is known of a pair, in all and by tensor.

    Raises:
        NotFound: there is no such patch, or it has not been computed; the message says how.
        InvalidRequest, WrongState, Forbidden: as `find` says.
    """
    one, two = find(session, actor, model, [first, second])
    low, high = key_of(one.sha256, two.sha256)
    query = select(PatchPair.sums, PatchPair.tensors).where(
        PatchPair.first_sha256 == low, PatchPair.second_sha256 == high
    )
    row = session.execute(query).one_or_none()
    if row is None:
        names = f"{name_of(one)} and {name_of(two)}"
        raise NotFound(
            f"Where {names} of {model.full_name} meet is not computed yet; have it computed with "
            f"`crumb conflicts {model.full_name} {name_of(one)[1:]} {name_of(two)[1:]}`."
        )
    tensors = {name: ordered(one.sha256, two.sha256, sums) for name, sums in row.tensors.items()}
    return one, two, ordered(one.sha256, two.sha256, row.sums), tensors


def conflicts_of_patch(
    session: Session, actor: Actor | None, model: Model, revision: PatchRevision, limit: int
) -> list[tuple[PatchRevision, Sums]]:
    """Return what is known of a patch with others of its model, the newest first; without the quarantined ones."""
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
    return [(other, ordered(mine, other.sha256, sums)) for other, sums in session.execute(query)]


def rounds(
    session: Session, model: Model, digests: Sequence[str], pairs: Sequence[Sequence[str]]
) -> list[tuple[list[str], list[Pair]]]:
    """Return what a job has to compare still, so much at a time as a sandbox may answer: patches, and pairs of them.

    Raises:
        InvalidRequest: a patch is no longer there.
    """
    listed = patches.by_digest(session, model, digests)
    for sha256 in digests:
        if sha256 not in listed:
            raise InvalidRequest(f"The patch {sha256} is no longer there to be compared.")
    there = pairs_of(session, digests)
    left = [(first, second) for first, second in pairs if (first, second) not in there]
    tensors = session.scalar(select(func.count()).select_from(BaseTensor).where(BaseTensor.model_id == model.id))
    step = max(1, ROUND // max(1, tensors or 0))
    made = [(list(digests), left[:step])]  # the census is of all of them
    for start in range(step, len(left), step):
        some = left[start : start + step]
        made.append((sorted({sha256 for pair in some for sha256 in pair}), some))
    return made


def finish(session: Session, digests: Iterable[str], report: Mapping[str, Any]) -> None:
    """Write down what a worker found; another may be writing the same."""
    pairs = []
    for found in report["pairs"]:
        first, second = found["first"], found["second"]
        tensors = {name: Sums(**sums) for name, sums in found["tensors"].items()}
        pairs.append(
            {
                "first_sha256": first,
                "second_sha256": second,
                "sums": asdict(total(tensors.values())),
                "tensors": found["tensors"],
            }
        )
    pairs.sort(key=lambda row: (row["first_sha256"], row["second_sha256"]))  # one order, no deadlock
    for start in range(0, len(pairs), ROWS):
        add_absent(session, PatchPair, pairs[start : start + ROWS])
    add_absent(session, PatchSet, [{"digest": set_digest(digests), "census": report["census"]}])


def add_absent(session: Session, table: type[Table], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows but for those whose keys are there already."""
    dialect: Dialect = session.get_bind().dialect
    insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    session.execute(insert(table).on_conflict_do_nothing(), rows)


def pairs_of(session: Session, digests: Sequence[str]) -> dict[Pair, dict[str, Any]]:
    """Return the sums of all pairs among patches that are known."""
    query = select(PatchPair.first_sha256, PatchPair.second_sha256, PatchPair.sums).where(
        PatchPair.first_sha256.in_(digests), PatchPair.second_sha256.in_(digests)
    )
    return {(first, second): sums for first, second, sums in session.execute(query)}


def energy(session: Session, found: Sequence[PatchRevision]) -> dict[str, list[float]]:
    """Return the share of each patch in the sum of their squared norms, tensor by tensor."""
    return {
        name: [part / whole for part in parts] if (whole := sum(parts)) else parts
        for name, parts in squares(session, found).items()
    }


def squares(session: Session, found: Sequence[PatchRevision]) -> dict[str, list[float]]:
    """Return the squared norm of each patch, tensor by tensor, in name order: layers are sums of these."""
    places = {revision.id: place for place, revision in enumerate(found)}
    query = select(PatchTensor.name, PatchTensor.revision_id, PatchTensor.l2).where(
        PatchTensor.revision_id.in_(list(places))
    )
    made: dict[str, list[float]] = {}
    for name, revision_id, l2 in session.execute(query):
        made.setdefault(name, [0.0] * len(places))[places[revision_id]] = l2 * l2
    return dict(sorted(made.items()))


def touched_by(model: Model, count: int, census: Iterable[Sequence[int]]) -> list[int]:
    """Return how many weights of a whole base are touched by 0, 1, ... and `count` patches."""
    touched = [0] * (count + 1)
    for counts in census:
        for place, number in enumerate(counts[1:], 1):
            touched[place] += number
    touched[0] = (model.parameters or 0) - sum(touched)
    return touched


def ordered(first: str, second: str, sums: Mapping[str, Any]) -> Sums:
    """Return the sums of a pair, which are kept in the order of the digests, in the order that it is named in."""
    found = Sums(**sums)
    if first < second:
        return found
    return replace(
        found,
        first=found.second,
        second=found.first,
        first_squares=found.second_squares,
        second_squares=found.first_squares,
        first_overlap_squares=found.second_overlap_squares,
        second_overlap_squares=found.first_overlap_squares,
        first_l1=found.second_l1,
        second_l1=found.first_l1,
    )


def key_of(first: str, second: str) -> Pair:
    """Return the key of a pair."""
    return (first, second) if first < second else (second, first)


def set_digest(digests: Iterable[str]) -> str:
    """Return the sha256 over sorted digests, one on a line."""
    return hashlib.sha256("".join(f"{sha256}\n" for sha256 in sorted(digests)).encode()).hexdigest()


def job_key(model: Model, digests: Iterable[str]) -> str:
    """Return the key of the job that compares patches of a model, of which there is one at a time."""
    return f"conflicts:{model.id}:{set_digest(digests)}"


def name_of(revision: PatchRevision) -> str:
    """Return `#3`, or `#3.2` for another than the first revision."""
    return f"#{revision.patch.number}" + (f".{revision.number}" if revision.number > 1 else "")

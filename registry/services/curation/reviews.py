"""Reviews: the table of steps of a patch, verdicts, and the list of what keeps a patch from acceptance.

An approval is of a revision, and so of its sha256: a new revision has none. Nobody approves their own patch. An
approval counts only while it is of the newest revision, its author is still a reviewer, and it is their newest verdict.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session, defer, joinedload

from registry.db.tables import (
    Channel,
    Check,
    Model,
    Patch,
    PatchRevision,
    Policy,
    RecipeItem,
    Release,
    Review,
    after,
    now,
)
from registry.errors import Forbidden, InvalidRequest, WrongState
from registry.services.catalog import models, patches
from registry.services.curation import evaluations, moderating, news, remarks
from registry.services.people import access, paging, policies
from registry.services.people.actors import Actor, record
from registry.services.people.rules import Role

STEPS: dict[str, tuple[frozenset[str], str]] = {  # verb -> (from, to)
    "propose": (frozenset({"draft", "changes_requested"}), "proposed"),
    "withdraw": (frozenset({"draft", "proposed", "changes_requested"}), "withdrawn"),
    "request_changes": (frozenset({"proposed"}), "changes_requested"),
    "accept": (frozenset({"proposed"}), "accepted"),
    "reject": (frozenset({"proposed", "changes_requested"}), "rejected"),
    "supersede": (frozenset({"accepted"}), "superseded"),
    "yank": (frozenset({"accepted"}), "yanked"),
    "unyank": (frozenset({"yanked"}), "accepted"),
}


@dataclass(frozen=True)
class Affected:
    """The releases that hold a patch, by version, and the channels that point at them, by name."""

    releases: list[str]
    channels: list[str]


def step(patch: Patch, verb: str, subject: str) -> str:
    """Move a patch along the table of steps; return the state that it was in.

    Raises:
        WrongState: The patch is in a state that does not allow this step.
    """
    start, end = STEPS[verb]
    if patch.state not in start:
        states = " or ".join(sorted(start))
        raise WrongState(f"{subject} is {patch.state}; to {verb.replace('_', ' ')} it, it must be {states}.")
    before, patch.state = patch.state, end
    return before


def move(session: Session, actor: Actor, full_name: str, number: int, verb: str, message: str = "") -> PatchRevision:
    """Propose, withdraw, reject, yank or unyank a patch.

    Raises:
        WrongState: The patch is in a state that does not allow this step.
    """
    revision = patches.find(session, full_name, number, lock=True)
    patch, subject = revision.patch, f"{full_name}#{number}"
    before = step(patch, verb, subject)
    patch.reason = message or None if verb in ("withdraw", "reject", "yank") else None
    if patch.state not in patches.REVISABLE:
        patches.close(session, patch)
    session.flush()
    model = models.find(session, full_name)
    after = {"state": patch.state, "reason": message} if message else {"state": patch.state}
    record(session, actor, f"patch.{verb}", subject, model, before={"state": before}, after=after)
    return revision


def review(
    session: Session,
    actor: Actor,
    full_name: str,
    number: int,
    seen: int,
    verdict: str,
    message: str,
    about: Sequence[str] = (),
) -> PatchRevision:
    """Approve the newest revision of a patch, or request changes.

    Args:
        session: A writing transaction.
        actor: The reviewer.
        full_name: `namespace/name`.
        number: The patch's number.
        seen: The revision that the reviewer looked at.
        verdict: `approve` or `request_changes`.
        message: The reasons.
        about: Names and globs of tensors that the reasons refer to.

    Raises:
        Forbidden: The patch is the reviewer's own.
        WrongState: The patch is not proposed, or has a newer revision than the one that was looked at.
        InvalidRecipe: A glob is malformed.
        InvalidRequest: A name or glob is of no tensor that the revision changes.
    """
    revision = patches.find(session, full_name, number, lock=True)
    patch, subject = revision.patch, f"{full_name}#{number}"
    if patch.author_id == actor.user_id:
        raise Forbidden(f"{subject} is your own patch; somebody else has to review it.")
    if seen != revision.number:
        raise WrongState(f"{subject} is at revision {revision.number} now, not {seen}; look at it again.")
    remarks.require_tensors(session, revision, subject, about)
    before = patch.state
    if verdict == "request_changes":
        step(patch, verdict, subject)
    elif patch.state != "proposed":
        raise WrongState(f"{subject} is {patch.state}; only a proposed patch can be approved.")
    own = select(func.max(Review.created_at)).where(Review.revision_id == revision.id)
    last = session.scalar(own.where(Review.reviewer_id == actor.user_id))
    row = Review(revision_id=revision.id, reviewer_id=actor.user_id, verdict=verdict, message=message)
    row.created_at = after(last)
    if about:
        row.about = list(about)
    session.add(row)
    session.flush()
    told = {"verdict": verdict, "revision": revision.number, "sha256": revision.sha256, "state": patch.state}
    model = models.find(session, full_name)
    news.mention(session, actor, model, patch, message)
    record(session, actor, "patch.review", subject, model, before={"state": before}, after=told)
    return revision


def accept(
    session: Session,
    actor: Actor,
    full_name: str,
    number: int,
    message: str,
    seen: int | None,
    supersedes: Sequence[int],
) -> PatchRevision:
    """Accept a patch, once nothing is missing; the older accepted ones that it replaces become superseded.

    Raises:
        WrongState: A requirement is missing, or the patch or one that it supersedes is in another state.
    """
    revision = patches.find(session, full_name, number, lock=True)
    model, patch, subject = models.find(session, full_name), revision.patch, f"{full_name}#{number}"
    if seen is not None and seen != revision.number:
        raise WrongState(f"{subject} is at revision {revision.number} now, not {seen}; look at it again.")
    before = step(patch, "accept", subject)
    if reasons := missing(session, model, revision):
        raise WrongState(f"{subject} cannot be accepted yet: {' '.join(reasons)}")
    patches.close(session, patch)
    for older in sorted(set(supersedes)):
        if older == number:
            raise InvalidRequest("A patch cannot supersede itself.", field="supersedes")
        other = patches.find(session, full_name, older, lock=True).patch
        step(other, "supersede", f"{full_name}#{older}")
        other.superseded_by = number
    session.flush()
    after = {"state": "accepted", "sha256": revision.sha256, "message": message, "supersedes": sorted(set(supersedes))}
    record(session, actor, "patch.accept", subject, model, before={"state": before}, after=after)
    return revision


def missing(session: Session, model: Model, revision: PatchRevision) -> list[str]:
    """Return what keeps a revision from being accepted, a sentence each: checks, policy, approvals, evaluations."""
    policy = policies.read(session)
    approvals = len(approvers(session, model, revision))
    unmeasured = evaluations.missing(session, model, revision=revision)
    return missing_in(model, policy, revision, patches.checks(session, revision), approvals, unmeasured)


def missing_in(
    model: Model,
    policy: Policy,
    revision: PatchRevision,
    checks: Sequence[Check],
    approvals: int,
    unmeasured: Sequence[str],
) -> list[str]:
    """Return what `missing` returns, given the policy, a revision's checks, approvals, and missing evaluations."""
    if revision.state != "checked":
        return [f"Its revision {revision.number} is {revision.state}."]
    reasons = [] if revision.patch.quarantined_at is None else ["It is quarantined."]
    reasons += [
        f"The check '{check.name}' failed: {check.summary}"
        for check in checks
        if check.required and check.status == "fail"
    ]
    if fault := policies.license_fault(policy, revision.license, "It"):
        reasons.append(fault)
    reasons += policies.mask_faults(policy, revision.drop_bottom, revision.drop_top, "It")
    if approvals < model.min_approvals:
        reasons.append(f"It has {approvals} of {model.min_approvals} approvals of revision {revision.number}.")
    return [*reasons, *unmeasured]


def reviews(session: Session, patch: Patch, before: str | None, limit: int) -> tuple[list[Review], str | None]:
    """Return a page of the verdicts on a patch, newest first, and the cursor of the next page."""
    query = (
        select(Review)
        .join(PatchRevision, PatchRevision.id == Review.revision_id)
        .where(PatchRevision.patch_id == patch.id)
        .options(joinedload(Review.reviewer), joinedload(Review.revision))
    )
    rows = session.scalars(paging.newest(query, Review.created_at, Review.id, before, limit)).all()
    return paging.cut(rows, limit, lambda row: paging.write(row.created_at, row.id))


def counting(
    session: Session, model: Model, verdicts: Sequence[Review], newest: Mapping[uuid.UUID, uuid.UUID]
) -> dict[uuid.UUID, dict[uuid.UUID, Review]]:
    """Return the verdicts that count, by revision and by reviewer: the newest of each who may review now.

    Args:
        session: A transaction.
        model: The model of the patches.
        verdicts: Verdicts with their reviewers, oldest first.
        newest: The author of each revision that is the newest of its patch; verdicts on other revisions do not count.
    """
    people = {row.reviewer_id: row.reviewer for row in verdicts if row.reviewer.is_active}
    reviewers = access.members_of(session, model, Role.REVIEWER) if people else set()
    able = {key for key, user in people.items() if user.is_admin or key in reviewers}
    by_revision: dict[uuid.UUID, dict[uuid.UUID, Review]] = {key: {} for key in newest}
    for row in verdicts:
        if row.revision_id in by_revision and row.reviewer_id in able - {newest[row.revision_id]}:
            by_revision[row.revision_id][row.reviewer_id] = row
    return by_revision


def verdicts(session: Session, model: Model, revision: PatchRevision) -> dict[uuid.UUID, Review]:
    """Return the verdicts that count on a revision, by reviewer."""
    query = select(Review).where(Review.revision_id == revision.id).order_by(Review.created_at, Review.id)
    given = session.scalars(query.options(joinedload(Review.reviewer), defer(Review.message, raiseload=True))).all()
    return counting(session, model, given, authors([revision])).get(revision.id, {})


def authors(revisions: Sequence[PatchRevision]) -> dict[uuid.UUID, uuid.UUID]:
    """Return the author of each given revision that is the newest of its patch."""
    return {row.id: row.patch.author_id for row in revisions if row.number == row.patch.revision}


def approvers(session: Session, model: Model, revision: PatchRevision) -> list[str]:
    """Return the names of the users whose approval of a revision counts."""
    return approving(verdicts(session, model, revision))


def approving(counted: Mapping[uuid.UUID, Review]) -> list[str]:
    """Return the names of the reviewers who approve, among verdicts that count."""
    return sorted(review.reviewer.name for review in counted.values() if review.verdict == "approve")


def approvals(session: Session, model: Model, revisions: Sequence[PatchRevision]) -> dict[uuid.UUID, list[str]]:
    """Return what `approvers` returns, for many revisions at once, by their keys."""
    newest = authors(revisions)
    query = select(Review).where(Review.revision_id.in_(newest)).options(joinedload(Review.reviewer))
    verdicts = session.scalars(query.order_by(Review.created_at, Review.id)).all()
    counted = counting(session, model, verdicts, newest)
    return {row.id: approving(counted.get(row.id, {})) for row in revisions}


def quarantine(session: Session, actor: Actor, full_name: str, number: int, reason: str | None) -> PatchRevision:
    """Quarantine a patch, or (None) end its quarantine. Does nothing if that is already so.

    Raises:
        NotFound: No such patch exists.
        WrongState: The patch is mirrored, and its primary has quarantined it.
    """
    revision = patches.find(session, full_name, number, lock=True)
    patch = revision.patch
    if (patch.quarantine_reason, patch.quarantined_at is not None) == (reason, reason is not None):
        return revision
    before, model = {"quarantined": patch.quarantine_reason}, models.find(session, full_name)
    if reason is not None:
        moderating.remember(session, model, patch)
        patch.quarantine_reason, patch.quarantined_at = reason, now()
    elif not moderating.restore(session, model, patch):
        patch.quarantine_reason, patch.quarantined_at = None, None
    session.flush()
    verb, after = "patch.release_from_quarantine" if reason is None else "patch.quarantine", patch.quarantine_reason
    record(session, actor, verb, f"{full_name}#{number}", model, before=before, after={"quarantined": after})
    return revision


def quarantined(session: Session, before: str | None, limit: int) -> tuple[list[PatchRevision], str | None]:
    """Return a page of all models' quarantined patches, the latest first, and the cursor of the next page.

    Each is at its newest revision, with its model.
    """

    def cursor_of(row: PatchRevision) -> str:
        assert row.patch.quarantined_at is not None
        return paging.write(row.patch.quarantined_at, row.patch.id)

    query = (
        patches.current()
        .where(Patch.quarantined_at.is_not(None))
        .options(joinedload(PatchRevision.patch).joinedload(Patch.model))
    )
    query = paging.newest(query, Patch.quarantined_at, Patch.id, before, limit)
    rows: Sequence[PatchRevision] = session.scalars(query).all()
    return paging.cut(rows, limit, cursor_of)


def affected(session: Session, patch: Patch) -> Affected:
    """Return the published releases that hold any revision of a patch, and the channels that point at them."""
    holding = (
        select(Release.id)
        .join(RecipeItem, RecipeItem.recipe_digest == Release.recipe_digest)
        .join(PatchRevision, PatchRevision.sha256 == RecipeItem.sha256)
        .where(Release.model_id == patch.model_id, PatchRevision.patch_id == patch.id, Release.state == "published")
    )
    query = select(Release.version, Channel.name).outerjoin(Channel, Channel.release_id == Release.id)
    rows = session.execute(query.where(Release.id.in_(holding)).order_by(Release.sort.desc())).all()
    return Affected(list(dict.fromkeys(version for version, _ in rows)), sorted(name for _, name in rows if name))

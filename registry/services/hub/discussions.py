"""Discussions: a model's patches as the Hub lists them, what became of each, and the step that a status asks for.

draft                           draft       found as open
proposed, changes_requested     open        found as open
accepted, superseded            merged      found as closed
rejected, withdrawn, yanked     closed      found as closed

What proposes a card is among them.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session, defer

from registry.db.tables import AuditEvent, CardProposal, Check, Comment, Model, Patch, PatchRevision, Review, User
from registry.services.catalog import patches
from registry.services.curation import cards, comments, reviews
from registry.services.hub.pushes import CHECK
from registry.services.people.actors import Actor

Status = Literal["draft", "open", "merged", "closed"]
STATUS: dict[str, Status] = {
    "draft": "draft",
    "proposed": "open",
    "changes_requested": "open",
    "accepted": "merged",
    "superseded": "merged",
    "rejected": "closed",
    "withdrawn": "closed",
    "yanked": "closed",
}
STEPS: dict[str, Status] = {  # what an event in the log made of a patch
    "patch.propose": "open",
    "patch.accept": "merged",
    "patch.reject": "closed",
    "patch.withdraw": "closed",
    "patch.yank": "closed",
    "patch.unyank": "merged",
    "card.accept": "merged",
    "card.reject": "closed",
    "card.withdraw": "closed",
}
NEWEST = 100  # revisions, reviews, comments and steps of a thread, each; our own pages show the others


@dataclass(frozen=True)
class Thread:
    """What was said and done about a patch, each kind oldest first; `cut` if it has more than the newest of a kind.

    `notes` are what the comparison of what was pushed found, by the keys of the revisions made of it.
    """

    revisions: Sequence[PatchRevision]
    reviews: Sequence[Review]
    comments: Sequence[Comment]
    steps: Sequence[AuditEvent]
    notes: Mapping[uuid.UUID, str]
    cut: bool


def page(
    session: Session,
    model: Model,
    *,
    author: str | None,
    wanted: Literal["open", "closed"] | None,
    start: int,
    limit: int,
) -> tuple[list[PatchRevision | CardProposal], int]:
    """Return a page of a model's patches, newest first, and how many there are in all.

    Each is at its newest revision, or as the card that it proposes.

    Args:
        session: A transaction.
        model: The model.
        author: Only patches by this user.
        wanted: Only patches that still can be accepted, or only others.
        start: How many to skip.
        limit: Most patches of a page.
    """
    which: list[ColumnElement[bool]] = [Patch.model_id == model.id, or_(Patch.revision > 0, cards.is_card())]
    if wanted is not None:
        open_now = wanted == "open"
        which.append(Patch.state.in_([state for state in STATUS if (state in patches.REVISABLE) == open_now]))
    if author is not None:
        which.append(Patch.author_id == select(User.id).where(User.name == author).scalar_subquery())
    total = session.scalar(select(func.count()).select_from(Patch).where(*which)) or 0
    # The keys first: revisions and authors are then looked up for this page alone.
    keys = select(Patch.id).where(*which).order_by(Patch.number.desc()).offset(start).limit(limit)
    chosen = session.scalars(keys).all()
    rows = [*session.scalars(patches.current().where(Patch.id.in_(chosen)))]
    if len(rows) < len(chosen):
        query = cards.proposals(model, Patch.id.in_(chosen))
        rows += session.scalars(query.options(defer(CardProposal.before), defer(CardProposal.card)))
    return sorted(rows, key=lambda row: -row.patch.number), total


def thread(session: Session, model: Model, patch: Patch) -> Thread:
    """Return the newest of what was said and done about a patch, or a proposal of a card, which has no revisions."""
    revisions = patches.history(session, patch, NEWEST)
    verdicts, more_verdicts = reviews.reviews(session, patch, None, NEWEST)
    said, more_said = comments.listing(session, patch, None, NEWEST)
    # By the index of subjects alone: with the model or in the order of serials, a planner may walk its whole log.
    about = select(AuditEvent).where(AuditEvent.subject == f"{model.full_name}#{patch.number}")
    query = about.where(AuditEvent.action.in_(STEPS)).order_by(AuditEvent.at.desc(), AuditEvent.serial.desc())
    steps = session.scalars(query.limit(NEWEST)).all()
    told = select(Check.revision_id, Check.summary).where(
        Check.revision_id.in_([revision.id for revision in revisions]), Check.name == CHECK
    )
    notes = {row.revision_id: row.summary for row in session.execute(told)}
    cut = bool(more_verdicts or more_said) or patch.revision > NEWEST
    return Thread(revisions, verdicts[::-1], said[::-1], steps[::-1], notes, cut)


def verb(actor: Actor, patch: Patch, status: Literal["open", "closed"]) -> str:
    """Return the step that gives a patch a status: its author withdraws it, and others reject it."""
    if status == "open":
        return "propose"
    return "withdraw" if patch.author_id == actor.user_id else "reject"

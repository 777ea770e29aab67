"""The inbox: patches of a model that wait for the caller to review, to accept, or to finish.

A fixed number of queries, whatever the number of patches, and two more for each reviewer.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Check, Evaluation, Model, Patch, PatchRevision, Review
from registry.services.catalog import patches
from registry.services.curation import evaluations, reviews
from registry.services.people import access
from registry.services.people.actors import Actor
from registry.services.people.rules import Role

Verdicts = Mapping[uuid.UUID, Mapping[uuid.UUID, Review]]  # by revision, then by reviewer


def inbox_of(session: Session, actor: Actor, model: Model) -> dict[str, list[PatchRevision]]:
    """Return the patches that wait for the caller in a model, by number: `review`, `accept` and `mine`."""
    role = access.role_on(session, actor, model)
    waiting = patches.current().where(Patch.model_id == model.id).order_by(Patch.number)
    own = waiting.where(Patch.author_id == actor.user_id, Patch.state.in_(patches.REVISABLE))
    waiting_for = {"review": [], "accept": [], "mine": list(session.scalars(own))}
    if role >= Role.REVIEWER:
        others = list(session.scalars(waiting.where(Patch.author_id != actor.user_id, Patch.state == "proposed")))
        counted = verdicts(session, model, others)
        waiting_for["review"] = [row for row in others if actor.user_id not in counted.get(row.id, {})]
        if role >= Role.MAINTAINER:
            waiting_for["accept"] = acceptable(session, model, others, counted)
    return waiting_for


def only_proposed(query: Any, model: Model) -> Any:
    """Restrict a query over rows of revisions to the newest revisions of proposed patches."""
    newest = Patch.model_id == model.id, Patch.state == "proposed", Patch.revision == PatchRevision.number
    return query.join(Patch, Patch.id == PatchRevision.patch_id).where(*newest)


def verdicts(session: Session, model: Model, others: Sequence[PatchRevision]) -> Verdicts:
    """Return the verdicts that count on proposed patches."""
    query = only_proposed(select(Review).join(PatchRevision, PatchRevision.id == Review.revision_id), model)
    all_verdicts = session.scalars(
        query.options(joinedload(Review.reviewer)).order_by(Review.created_at, Review.id)
    ).all()
    return reviews.counting(session, model, all_verdicts, reviews.authors(others))


def acceptable(
    session: Session, model: Model, others: Sequence[PatchRevision], counted: Verdicts
) -> list[PatchRevision]:
    """Return the proposed patches that could be accepted, given the verdicts on them."""
    failed: dict[uuid.UUID, list[Check]] = defaultdict(list)
    checks = only_proposed(select(Check).join(PatchRevision, PatchRevision.id == Check.revision_id), model)
    for check in session.scalars(checks.where(Check.required, Check.status == "fail")):
        failed[check.revision_id].append(check)
    columns = select(Evaluation.revision_id, Evaluation.dataset, Evaluation.metric)
    query = only_proposed(columns.join(PatchRevision, PatchRevision.id == Evaluation.revision_id), model)
    measured = evaluations.recorded(session, query) if model.required_evaluations else {}
    return [
        row
        for row in others
        if not reviews.missing_in(
            model,
            row,
            failed[row.id],
            len(reviews.approving(counted.get(row.id, {}))),
            evaluations.missing_among(model, measured.get(row.id, ())),
        )
    ]

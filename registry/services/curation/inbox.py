"""What waits for somebody in a model: patches to review, to accept, and their own.

However many patches wait, the database is asked a handful of questions, and two for each reviewer.
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
    """Return what waits for somebody in a model, by number: `review`, `accept` and `mine`."""
    role = access.role_on(session, actor, model)
    waiting = patches.current().where(Patch.model_id == model.id).order_by(Patch.number)
    own = waiting.where(Patch.author_id == actor.user_id, Patch.state.in_(patches.REVISABLE))
    found = {"review": [], "accept": [], "mine": list(session.scalars(own))}
    if role >= Role.REVIEWER:
        others = list(session.scalars(waiting.where(Patch.author_id != actor.user_id, Patch.state == "proposed")))
        given = verdicts(session, model, others)
        found["review"] = [row for row in others if actor.user_id not in given.get(row.id, {})]
        if role >= Role.MAINTAINER:
            found["accept"] = acceptable(session, model, others, given)
    return found


def only_proposed(query: Any, model: Model) -> Any:
    """Return a query, which is for rows of revisions, for those of the newest revisions of proposed patches alone."""
    newest = Patch.model_id == model.id, Patch.state == "proposed", Patch.revision == PatchRevision.number
    return query.join(Patch, Patch.id == PatchRevision.patch_id).where(*newest)


def verdicts(session: Session, model: Model, others: Sequence[PatchRevision]) -> Verdicts:
    """Return the verdicts on proposed patches that count."""
    query = only_proposed(select(Review).join(PatchRevision, PatchRevision.id == Review.revision_id), model)
    given = session.scalars(query.options(joinedload(Review.reviewer)).order_by(Review.created_at, Review.id)).all()
    return reviews.counting(session, model, given, reviews.authors(others))


def acceptable(session: Session, model: Model, others: Sequence[PatchRevision], given: Verdicts) -> list[PatchRevision]:
    """Return the patches that nothing is missing of, among proposed ones and with the verdicts on them."""
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
            len(reviews.approving(given.get(row.id, {}))),
            evaluations.missing_among(model, measured.get(row.id, ())),
        )
    ]

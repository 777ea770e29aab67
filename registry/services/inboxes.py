"""What waits for somebody in a model: patches to review, to accept, and their own.

However many patches wait, the database is asked a handful of questions, and two for each reviewer.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from registry.db.models import Check, Evaluation, Model, Patch, PatchRevision, Review
from registry.services import access, evaluations, patches, reviews
from registry.services.actors import Actor
from registry.services.rules import Role

Verdicts = Mapping[uuid.UUID, Mapping[uuid.UUID, Review]]  # by revision, then by reviewer


def of(session: Session, actor: Actor, model: Model) -> dict[str, list[PatchRevision]]:
    """Return what waits for somebody in a model, by number: `review`, `accept` and `mine`."""
    role = access.role_on(session, actor, model)
    waiting = patches.current().where(Patch.model_id == model.id).order_by(Patch.number)
    own = waiting.where(Patch.author_id == actor.user_id, Patch.state.in_(patches.REVISABLE))
    found = {"review": [], "accept": [], "mine": list(session.scalars(own))}
    if role >= Role.REVIEWER:
        others = list(session.scalars(waiting.where(Patch.author_id != actor.user_id, Patch.state == "proposed")))
        given = verdicts(session, model)
        found["review"] = [row for row in others if actor.user_id not in given.get(row.id, {})]
        if role >= Role.MAINTAINER:
            found["accept"] = acceptable(session, model, others, given)
    return found


def of_proposed(query: Any, model: Model) -> Any:
    """Return a query, which is for rows of revisions, for those of the newest revisions of proposed patches alone."""
    newest = Patch.model_id == model.id, Patch.state == "proposed", Patch.revision == PatchRevision.number
    return query.join(Patch, Patch.id == PatchRevision.patch_id).where(*newest)


def verdicts(session: Session, model: Model) -> Verdicts:
    """Return the verdicts on proposed patches that count, as `reviews.verdicts` does for one."""
    query = select(Review).join(PatchRevision, PatchRevision.id == Review.revision_id)
    query = of_proposed(query, model).where(Review.reviewer_id != Patch.author_id)
    given = session.scalars(query.options(joinedload(Review.reviewer)).order_by(Review.created_at, Review.id)).all()
    people = {row.reviewer_id: row.reviewer for row in given if row.reviewer.is_active}
    counting = {key for key, user in people.items() if access.held(session, key, model, user.is_admin) >= Role.REVIEWER}
    found: dict[uuid.UUID, dict[uuid.UUID, Review]] = defaultdict(dict)
    for row in given:  # of several by one reviewer, the newest stays
        if row.reviewer_id in counting:
            found[row.revision_id][row.reviewer_id] = row
    return found


def acceptable(session: Session, model: Model, others: Sequence[PatchRevision], given: Verdicts) -> list[PatchRevision]:
    """Return the patches that nothing is missing of, among proposed ones and with the verdicts on them."""
    failed: dict[uuid.UUID, list[Check]] = defaultdict(list)
    query = select(Check).join(PatchRevision, PatchRevision.id == Check.revision_id)
    for check in session.scalars(of_proposed(query, model).where(Check.required, Check.status == "fail")):
        failed[check.revision_id].append(check)
    measured: dict[uuid.UUID, set[str]] = defaultdict(set)
    if model.required_evaluations:
        columns = select(Evaluation.revision_id, Evaluation.dataset, Evaluation.metric)
        measures = columns.join(PatchRevision, PatchRevision.id == Evaluation.revision_id)
        for revision_id, dataset, metric in session.execute(of_proposed(measures, model)):
            measured[revision_id].add(f"{dataset}:{metric}")
    return [
        row
        for row in others
        if not reviews.lacks(
            model,
            row,
            failed[row.id],
            sum(verdict.verdict == "approve" for verdict in given.get(row.id, {}).values()),
            evaluations.absent(model, measured[row.id]),
        )
    ]

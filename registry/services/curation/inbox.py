"""The inbox: patches and cards that wait for the caller to review, to accept, or to finish; and all models with such.

A fixed number of queries, whatever the number of patches and reviewers.
"""

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import case, func, literal, or_, select, tuple_, union_all
from sqlalchemy.orm import Session, defer, joinedload

from registry.db.tables import CardProposal, Check, Evaluation, Model, Namespace, Patch, PatchRevision, Release, Review
from registry.services.catalog import patches
from registry.services.curation import cards, evaluations, reviews
from registry.services.people import access, paging, policies
from registry.services.people.actors import Actor
from registry.services.people.rules import Role

Verdicts = Mapping[uuid.UUID, Mapping[uuid.UUID, Review]]  # by revision, then by reviewer


@dataclass(frozen=True)
class Waiting:
    """How much of a model waits for somebody.

    Args:
        model: NS/NAME.
        proposed: Patches and cards of others that a reviewer or maintainer of the model may review or decide.
        mine: Patches and cards of their own that are not decided yet.
        candidates: Releases that a maintainer may publish.
    """

    model: str
    proposed: int
    mine: int
    candidates: int


def waiting_models(session: Session, actor: Actor, after: str | None, limit: int) -> tuple[list[Waiting], str | None]:
    """Return a page of the models in which something waits for the caller, by name, and the cursor of the next page.

    An admin of the registry sees what waits for them as a member, not all models.

    Args:
        session: A transaction.
        actor: The caller.
        after: Only models with later names; the cursor of the previous page.
        limit: Most models.
    """
    me = actor.user_id
    mine = select(Patch.model_id, literal("mine").label("kind")).where(
        Patch.author_id == me, Patch.state.in_(patches.REVISABLE), or_(Patch.revision > 0, cards.is_card())
    )
    reviewed, maintained = (access.models_with(me, role) for role in (Role.REVIEWER, Role.MAINTAINER))
    proposed = select(Patch.model_id, literal("proposed")).where(
        Patch.model_id.in_(reviewed), Patch.state == "proposed", Patch.author_id != me
    )
    candidates = select(Release.model_id, literal("candidates")).where(
        Release.model_id.in_(maintained), Release.state == "candidate"
    )
    found = union_all(mine, proposed, candidates).subquery()
    counts = [func.sum(case((found.c.kind == kind, 1), else_=0)) for kind in ("proposed", "mine", "candidates")]
    name = (Namespace.name, Model.name)
    query = (
        select(*name, *counts)
        .select_from(found)
        .join(Model, Model.id == found.c.model_id)
        .join(Namespace, Namespace.id == Model.namespace_id)
        .where(access.visible(actor))
        .group_by(*name)
        .order_by(*name)
        .limit(limit + 1)
    )
    if actor.token.model_id is not None:
        query = query.where(Model.id == actor.token.model_id)
    if after is not None:
        query = query.where(tuple_(*name) > tuple_(*(literal(part) for part in after.partition("/")[::2])))
    rows = [Waiting(f"{space}/{model}", *map(int, numbers)) for space, model, *numbers in session.execute(query)]
    return paging.cut(rows, limit, lambda row: row.model)


def inbox_of(
    session: Session, actor: Actor, model: Model, after: int, limit: int
) -> tuple[dict[str, list[PatchRevision]], int | None]:
    """Return a page of the patches that wait for the caller in a model, by number, and the cursor of the next page.

    Args:
        session: A transaction.
        actor: The caller.
        model: The model.
        after: Only patches with greater numbers; the cursor of the previous page.
        limit: Most patches that are looked at: the caller's own that are not decided, and what others propose.

    Returns:
        The patches as `review`, `accept` and `mine`, and the cursor.
    """
    role = access.role_on(session, actor, model)
    waiting = patches.current().where(Patch.model_id == model.id, Patch.number > after).order_by(Patch.number)
    waiting = waiting.limit(limit + 1)
    rows = list(session.scalars(waiting.where(Patch.author_id == actor.user_id, Patch.state.in_(patches.REVISABLE))))
    if role >= Role.REVIEWER:
        rows += session.scalars(waiting.where(Patch.author_id != actor.user_id, Patch.state == "proposed"))
    page, cursor = paging.cut(sorted(rows, key=lambda row: row.patch.number), limit, lambda row: row.patch.number)
    others = [row for row in page if row.patch.author_id != actor.user_id]
    counted = verdicts(session, model, others)
    waiting_for = {
        "review": [row for row in others if actor.user_id not in counted.get(row.id, {})],
        "accept": acceptable(session, model, others, counted) if role >= Role.MAINTAINER else [],
        "mine": [row for row in page if row.patch.author_id == actor.user_id],
    }
    return waiting_for, cursor


def cards_of(session: Session, actor: Actor, model: Model, limit: int) -> list[CardProposal]:
    """Return the oldest cards that are proposed: all for a reviewer, for others their own."""
    wanted = [Patch.state == "proposed"]
    if access.role_on(session, actor, model) < Role.REVIEWER:
        wanted.append(Patch.author_id == actor.user_id)
    query = cards.proposals(model, *wanted).options(defer(CardProposal.before))
    return list(session.scalars(query.order_by(Patch.number).limit(limit)))


def verdicts(session: Session, model: Model, others: Sequence[PatchRevision]) -> Verdicts:
    """Return the verdicts that count on proposed patches."""
    if not others:
        return {}
    query = select(Review).where(Review.revision_id.in_([row.id for row in others]))
    all_verdicts = session.scalars(
        query.options(joinedload(Review.reviewer)).order_by(Review.created_at, Review.id)
    ).all()
    return reviews.counting(session, model, all_verdicts, reviews.authors(others))


def acceptable(
    session: Session, model: Model, others: Sequence[PatchRevision], counted: Verdicts
) -> list[PatchRevision]:
    """Return the proposed patches that could be accepted, given the verdicts on them."""
    keys = [row.id for row in others]
    failed: dict[uuid.UUID, list[Check]] = defaultdict(list)
    checks = select(Check).where(Check.revision_id.in_(keys), Check.required, Check.status == "fail")
    for check in session.scalars(checks) if keys else ():
        failed[check.revision_id].append(check)
    columns = select(Evaluation.revision_id, Evaluation.dataset, Evaluation.metric)
    query = columns.where(Evaluation.revision_id.in_(keys))
    measured = evaluations.recorded(session, query) if model.required_evaluations and keys else {}
    policy = policies.read(session)
    return [
        row
        for row in others
        if not reviews.missing_in(
            model,
            policy,
            row,
            failed[row.id],
            len(reviews.approving(counted.get(row.id, {}))),
            evaluations.missing_among(model, measured.get(row.id, ())),
        )
    ]

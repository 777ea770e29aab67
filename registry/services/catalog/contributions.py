"""Contributions: patches over all models, newest first: those of one user, or those that wait for a review."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnClause, Subquery, and_, literal_column, select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Model, Patch, PatchRevision
from registry.services.people import access, paging
from registry.services.people.actors import Actor

PROPOSED: ColumnClause[str] = literal_column(
    "'proposed'"
)  # written out, or the index of what is proposed would not be found


def by_author(session: Session, actor: Actor | None, user_id: uuid.UUID, limit: int) -> Sequence[PatchRevision]:
    """Return the newest revision of the newest patches of a user, of models that the caller may see.

    Only so many of the newest are gone through: of who contributes to private models alone, others would read all.
    """
    newest = select(Patch.id).where(Patch.author_id == user_id).order_by(Patch.created_at.desc(), Patch.id.desc())
    query = (
        select(PatchRevision)
        .join(Patch, Patch.id == PatchRevision.patch_id)
        .join(Model, Model.id == Patch.model_id)
        .where(
            Patch.id.in_(newest.limit(paging.WINDOW)),
            PatchRevision.number == Patch.revision,
            Patch.quarantined_at.is_(None),
            access.visible(actor),
        )
        .options(joinedload(PatchRevision.patch).joinedload(Patch.model))
        .order_by(Patch.created_at.desc(), Patch.id.desc())
    )
    return session.scalars(query.limit(limit)).all()


def proposed(
    session: Session, actor: Actor | None, before: str | None, limit: int
) -> tuple[list[tuple[PatchRevision, Model]], str | None]:
    """Return a page of the proposed patches of models that the caller may see, at their newest revision, newest first.

    Those of a model come with it. See `paging.through` for the cursor.
    """
    waiting = select(Patch).where(Patch.state == PROPOSED, Patch.revision > 0, Patch.quarantined_at.is_(None))

    def fill(ends: Subquery) -> Any:
        of_model, newest = Model.id == Patch.model_id, PatchRevision.number == Patch.revision
        query = select(PatchRevision, Model).select_from(ends).join(Patch, Patch.id == ends.c.key)
        query = query.join(PatchRevision, and_(PatchRevision.patch_id == Patch.id, newest)).join(Model, of_model)
        return query.where(access.visible(actor)).options(joinedload(PatchRevision.patch).joinedload(Patch.author))

    rows, cursor = paging.through(session, waiting, Patch.created_at, Patch.id, before, limit, fill)
    return [(row[0], row[1]) for row in rows], cursor

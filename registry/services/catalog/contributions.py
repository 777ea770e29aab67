"""Contributions: what a user has brought to models, newest first."""

import uuid
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from registry.db.tables import Model, Patch, PatchRevision
from registry.services.people import access, paging
from registry.services.people.actors import Actor


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

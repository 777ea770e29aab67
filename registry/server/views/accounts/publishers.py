"""Views of trusted publishing: workflows that may push to a model."""

from sqlalchemy.orm import Session

from registry import schemas
from registry.db.tables import Model
from registry.db.tables import Publisher as Row
from registry.services.catalog import publishers


def publisher(row: Row) -> schemas.Publisher:
    """Return the shape of a publisher."""
    same = ("kind", "issuer", "claims", "pinned", "created_at", "used_at")
    created_by = row.created_by.name if row.created_by else None
    words = {name: getattr(row, name) for name in same}
    return schemas.Publisher.model_validate(
        {"id": str(row.id), "user": row.user.name, "created_by": created_by, **words}
    )


def listing(session: Session, model: Model) -> list[schemas.Publisher]:
    """Return the publishers of a model, oldest first."""
    return [publisher(row) for row in publishers.listing(session, model)]

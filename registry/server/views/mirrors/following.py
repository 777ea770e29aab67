"""Views of the registry that this one follows."""

from sqlalchemy.orm import Session

from registry.services.mirroring import mirrors


def primary(session: Session) -> str | None:
    """Return the address of the registry that this one follows; None if it follows none."""
    mirror = mirrors.find(session)
    return mirror.url if mirror is not None else None

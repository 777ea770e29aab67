"""The log as tests look at it: its rows, its end, and what a check of it says."""

from collections.abc import Sequence

from sqlalchemy import select

from registry.db.audit import check_chain
from registry.db.tables import AuditEvent, AuditHead
from tests.support.world import World


def rows(world: World, after: int = 0) -> Sequence[AuditEvent]:
    """Return the log from a serial on."""
    with world.database.read() as session:
        return session.scalars(select(AuditEvent).where(AuditEvent.serial > after).order_by(AuditEvent.serial)).all()


def last(world: World) -> int:
    """Return the serial of the newest row."""
    with world.database.read() as session:
        return session.get_one(AuditHead, 1).serial


def complaints(world: World) -> list[str]:
    """Return the problems that the check of the log finds."""
    with world.database.read() as session:
        return list(check_chain(session))

"""Tables of news: who was mentioned in a thread, and who watches a model."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.declare import Table, key, now
from registry.db.tables.patches import Patch
from registry.db.tables.people import User


class Mention(Table):
    """A user who was named in the thread of a patch, last by `by`; `seen` once they say that they have read it."""

    __tablename__ = "mentions"
    __table_args__ = (
        UniqueConstraint("user_id", "patch_id"),
        Index("ix_mentions_user_id_seen_at", "user_id", "seen", "at"),
    )

    id: Mapped[uuid.UUID] = key()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    patch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("patches.id", ondelete="CASCADE"), index=True)
    by_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    at: Mapped[datetime] = mapped_column(default=now)
    seen: Mapped[bool] = mapped_column(default=False)

    patch: Mapped[Patch] = relationship(lazy="raise")
    by: Mapped[User] = relationship(lazy="raise", foreign_keys=[by_id])


class WatchedModel(Table):
    """A user who wants to know what happens in a model, and the serial of the log up to which they have read it."""

    __tablename__ = "watches"

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    model_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("models.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    seen_serial: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)

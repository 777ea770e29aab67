"""Tables of news: who was mentioned in a thread, who watches a model, and who is told by e-mail."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.declare import Table, key, now, one_of
from registry.db.tables.patches import Patch
from registry.db.tables.people import User


class Mention(Table):
    """A user who was named in the thread of a patch, last by `by`; `seen` once they say that they have read it.

    `mailed` says that an e-mail has told them, or that they want none.
    """

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
    mailed: Mapped[bool] = mapped_column(default=False, server_default=false())

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


class MailAddress(Table):
    """Where a user gets their news by e-mail, and how often.

        asked ── a link is mailed ──> sent ── opened, signed in ──> verified ── refused again and again ──> refused

    `secret` signs the links in mails to this address. `cursor` is the serial of the log up to which the user was told.
    `attempts` counts the mails in a row that the mail server refused, and `answer` is what it said last. Whoever has
    no `due_at` gets nothing.
    """

    __tablename__ = "mail_addresses"
    __table_args__ = (
        one_of("state", "asked", "sent", "verified", "refused"),
        one_of("rhythm", "at_once", "daily", "off"),
    )

    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    address: Mapped[str] = mapped_column(String(254))
    state: Mapped[str] = mapped_column(String(16), default="asked")
    rhythm: Mapped[str] = mapped_column(String(16))
    secret: Mapped[str] = mapped_column(String(64))
    cursor: Mapped[int] = mapped_column(BigInteger)
    due_at: Mapped[datetime | None] = mapped_column(index=True)
    attempts: Mapped[int] = mapped_column(default=0)
    answer: Mapped[str] = mapped_column(String(500), default="")
    asked_at: Mapped[datetime] = mapped_column(default=now)

    user: Mapped[User] = relationship(lazy="raise")

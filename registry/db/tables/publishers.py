"""Tables of trusted publishing: workflows elsewhere that may push, and identity tokens that were used."""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.declare import Table, key, now, one_of
from registry.db.tables.people import User

if TYPE_CHECKING:
    from registry.db.tables.contents import Model

PUBLISHER_KINDS = ("github", "gitlab", "oidc")


class Publisher(Table):
    """A workflow elsewhere, whose identity tokens are exchanged for tokens that may push to one model.

    `claims` are what its owner here wrote down, and `pinned` what was kept from its first token: ids that go with the
    names, so that whoever gets a name later is somebody else. `user` is the program as which it acts.
    """

    __tablename__ = "publishers"
    __table_args__ = (
        one_of("kind", *PUBLISHER_KINDS),
        Index("ix_publishers_model_id_issuer", "model_id", "issuer"),
    )

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    issuer: Mapped[str] = mapped_column(String(500))
    claims: Mapped[dict[str, Any]]
    pinned: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_by_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    used_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="raise", foreign_keys=[user_id])
    created_by: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[created_by_id])
    model: Mapped["Model"] = relationship(lazy="raise")


class UsedIdentity(Table):
    """An identity token that was exchanged, by the digest of its issuer and id, until it is out of date anyway."""

    __tablename__ = "used_identities"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires_at: Mapped[datetime] = mapped_column(index=True)

"""Tables of people: users, namespaces and their members, tokens, and sign-ins."""

import uuid
from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.declare import Table, key, now, one_of

ROLES = ("contributor", "reviewer", "maintainer", "owner")


class User(Table):
    """A person or a program. Each has a namespace of the same name; a user who is not active can do nothing.

    `text_bytes` is what they have written since `text_since`, for at most a day.
    """

    __tablename__ = "users"

    id: Mapped[uuid.UUID] = key()
    name: Mapped[str] = mapped_column(String(96), unique=True)
    is_admin: Mapped[bool] = mapped_column(default=False)
    is_active: Mapped[bool] = mapped_column(default=True)
    text_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    text_since: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Namespace(Table):
    """The owner of models: a user or an organisation.

    `skeleton` is the name as a hasty reader sees it, so that no two names look alike. A quota that is NULL is the
    server's setting. `used_bytes` is the sum that services/blobs/quotas.py keeps.
    """

    __tablename__ = "namespaces"
    __table_args__ = (one_of("kind", "user", "organisation"),)

    id: Mapped[uuid.UUID] = key()
    name: Mapped[str] = mapped_column(String(96), unique=True)
    skeleton: Mapped[str] = mapped_column(String(96), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    quota_bytes: Mapped[int | None] = mapped_column(BigInteger)
    quota_uploads: Mapped[int | None]
    used_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(default=now)


class NamespaceMember(Table):
    """A user's role on every model of a namespace."""

    __tablename__ = "namespace_members"
    __table_args__ = (one_of("role", *ROLES),)

    namespace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("namespaces.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=now)

    user: Mapped[User] = relationship(lazy="raise")


class Token(Table):
    """A bearer token; only its sha256 is stored. One with a model is limited to that model."""

    __tablename__ = "tokens"

    id: Mapped[uuid.UUID] = key()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    label: Mapped[str] = mapped_column(String(100), default="")
    prefix: Mapped[str] = mapped_column(String(16))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    model_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="raise")


class SignIn(Table):
    """A browser in which a token was entered; only the sha256 of its cookie is stored, and it ends with the token."""

    __tablename__ = "sign_ins"

    id: Mapped[uuid.UUID] = key()
    token_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]

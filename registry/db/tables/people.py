"""Tables of people: users, their identities elsewhere, namespaces and members, invitations, tokens, sign-ins."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.declare import Table, key, now, one_of

ROLES = ("contributor", "reviewer", "maintainer", "owner")


class User(Table):
    """A person, or a program for which only publishers speak. Each has a namespace of the same name; a user who is not
    active can do nothing.

    `display_name` is how they want to be called; it is shown beside the name, and never in its place.
    One who came by a provider can do nothing after `vouched_until`, until that provider lets them sign in again.
    `text_bytes` is what they have written since `text_since`, for at most a day.
    """

    __tablename__ = "users"

    id: Mapped[uuid.UUID] = key()
    name: Mapped[str] = mapped_column(String(96), unique=True)
    display_name: Mapped[str] = mapped_column(String(100), default="", server_default="")
    is_admin: Mapped[bool] = mapped_column(default=False)
    is_program: Mapped[bool] = mapped_column(default=False, server_default=false())
    program_of_id: Mapped[uuid.UUID | None]  # the namespace that named it; without a key, since namespaces come later
    is_active: Mapped[bool] = mapped_column(default=True)
    vouched_until: Mapped[datetime | None]
    text_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    text_since: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)


class Identity(Table):
    """Who a user is at a provider, by which they sign in; `joined` if the account came by it."""

    __tablename__ = "identities"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[uuid.UUID] = key()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    issuer: Mapped[str] = mapped_column(String(500))
    subject: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(200))
    joined: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)
    used_at: Mapped[datetime] = mapped_column(default=now)

    user: Mapped[User] = relationship(lazy="raise")


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


class Invitation(Table):
    """A link by which one person joins, or gets a role in a namespace; only the sha256 of its secret is stored.

    Somebody may ask for their own, with the name that they want and a message; it opens once an admin approves it.

        asked ──> open ──> used      one that is refused, revoked or out of date is deleted
    """

    __tablename__ = "invitations"
    __table_args__ = (
        one_of("state", "asked", "open", "used"),
        one_of("role", *ROLES),
        CheckConstraint(
            "(namespace_id IS NULL AND role IS NULL) OR (namespace_id IS NOT NULL AND role IS NOT NULL)", name="place"
        ),
        Index("ix_invitations_state_created_at_id", "state", "created_at", "id"),
        Index("ix_invitations_namespace_id_state", "namespace_id", "state"),
    )

    id: Mapped[uuid.UUID] = key()
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(16), default="open")
    namespace_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("namespaces.id", ondelete="CASCADE"))
    role: Mapped[str | None] = mapped_column(String(16))
    label: Mapped[str] = mapped_column(String(100), default="")
    asked_name: Mapped[str | None] = mapped_column(String(96))
    message: Mapped[str] = mapped_column(Text, default="")
    created_by_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    used_by_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]

    namespace: Mapped[Namespace | None] = relationship(lazy="raise")
    created_by: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[created_by_id])
    used_by: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[used_by_id])


class Token(Table):
    """A bearer token; only its sha256 is stored. One with a model is limited to that model.

    One of the kind `session` is that of a browser that signed in without a token, and nobody knows it. One of the kind
    `publisher` was given to a workflow, and `origin` says to which run of it.
    """

    __tablename__ = "tokens"
    __table_args__ = (
        one_of("kind", "personal", "session", "publisher"),
        Index("ix_tokens_kind_expires_at", "kind", "expires_at"),
    )

    id: Mapped[uuid.UUID] = key()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    kind: Mapped[str] = mapped_column(String(16), default="personal", server_default="personal")
    label: Mapped[str] = mapped_column(String(100), default="")
    prefix: Mapped[str] = mapped_column(String(16))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    model_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), index=True)
    publisher_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("publishers.id", ondelete="CASCADE"), index=True)
    origin: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="raise")


class SignIn(Table):
    """A browser that is signed in; only the sha256 of its cookie is stored, and it ends with its token.

    `agent` is what the browser says of itself.
    """

    __tablename__ = "sign_ins"

    id: Mapped[uuid.UUID] = key()
    token_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    secret_hash: Mapped[str] = mapped_column(String(64), unique=True)
    agent: Mapped[str] = mapped_column(String(200), default="", server_default="")
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]

    token: Mapped[Token] = relationship(lazy="raise")


class DeviceLogin(Table):
    """A program that waits for somebody to let it in by a code; only hashes of its secrets are stored.

    `token_ends` and `scopes` are of the token that the user gives it; none for the first means never.

        waiting ──> approved ──> (deleted, once it has its token)      waiting ──> denied
    """

    __tablename__ = "device_logins"
    __table_args__ = (one_of("state", "waiting", "approved", "denied"),)

    id: Mapped[uuid.UUID] = key()
    device_hash: Mapped[str] = mapped_column(String(64), unique=True)
    code_hash: Mapped[str] = mapped_column(String(64), unique=True)
    label: Mapped[str] = mapped_column(String(100))
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    scopes: Mapped[list[str] | None]
    token_ends: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column(index=True)

    user: Mapped[User | None] = relationship(lazy="raise")

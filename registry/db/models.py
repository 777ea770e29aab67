"""All tables.

    users ─< tokens                          who may do what
    users ─< upload_sessions ─< upload_parts   bytes on their way in
    blobs                                    bytes that are here, by sha256
    models ─< base_files >─ blobs            a name pinned to one base
           ─< base_tensors
           ─< patches ─< patch_revisions >─ blobs
                         patch_revisions ─< patch_tensors
    recipes ─< recipe_items                  what is composed, by content alone
    models ─< compositions ─< composition_files >─ blobs
    jobs                                     work for workers
    audit_events                             who did what when

    models            importing ──> ready           (a failed import deletes the row: the name is free again)
    patch_revisions   checking ──> checked | refused
    upload_sessions   open ──> done ──> (deleted when expired)
    jobs              queued ──> running ──> done | failed | cancelled
                        ^──────────┘ worker died or stopped

Keys are UUIDs, names are never keys; times are UTC; enums are text with a CHECK; every constraint has a name.
A digest column holds 64 lowercase hex digits; `base_digest` and `weights_digest` are written `sha256:<hex>`.
"""

import uuid
from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """A timezone-aware UTC time on every database (SQLite keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC; refuse naive times."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Table(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UTCDateTime,
        uuid.UUID: Uuid,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[int]: JSON,
    }


def key() -> Mapped[uuid.UUID]:
    """Declare a UUID primary key."""
    return mapped_column(primary_key=True, default=uuid.uuid4)


def one_of(column: str, *values: str) -> CheckConstraint:
    """Declare a text column to be one of a few words."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


class User(Table):
    """A person or a robot; the name is also their namespace."""

    __tablename__ = "users"

    id: Mapped[uuid.UUID] = key()
    name: Mapped[str] = mapped_column(String(96), unique=True)
    is_admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Token(Table):
    """A bearer token; only its sha256 is stored."""

    __tablename__ = "tokens"

    id: Mapped[uuid.UUID] = key()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    prefix: Mapped[str] = mapped_column(String(16))
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    user: Mapped[User] = relationship(lazy="raise")


class Blob(Table):
    """Bytes on disk. Owners hold foreign keys; a blob nobody refers to is garbage after a grace."""

    __tablename__ = "blobs"
    __table_args__ = (CheckConstraint("size >= 0", name="size"),)

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)


class UploadSession(Table):
    """Announced bytes of one user; once `done`, the user's proof of possession until it expires."""

    __tablename__ = "upload_sessions"
    __table_args__ = (
        one_of("state", "open", "done"),
        CheckConstraint("size >= 0", name="size"),
        UniqueConstraint("user_id", "sha256"),
    )

    id: Mapped[uuid.UUID] = key()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    part_size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), default="open")
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column(index=True)

    parts: Mapped[list["UploadPart"]] = relationship(lazy="raise", cascade="all, delete-orphan", passive_deletes=True)

    @property
    def part_count(self) -> int:
        """How many parts the bytes have."""
        return -(-self.size // self.part_size)


class UploadPart(Table):
    """A part whose bytes are durable in the session's staging file."""

    __tablename__ = "upload_parts"

    session_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("upload_sessions.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


class Model(Table):
    """`namespace/name`, pinned to one base."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("namespace", "name"), one_of("state", "importing", "ready"))

    id: Mapped[uuid.UUID] = key()
    namespace: Mapped[str] = mapped_column(String(96))
    name: Mapped[str] = mapped_column(String(96))
    owner_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    state: Mapped[str] = mapped_column(String(16), default="importing")
    base_digest: Mapped[str | None] = mapped_column(String(71), index=True)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    size: Mapped[int] = mapped_column(BigInteger)
    card: Mapped[str | None] = mapped_column(Text)
    patch_count: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(default=now)

    owner: Mapped[User] = relationship(lazy="raise")
    files: Mapped[list["BaseFile"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="BaseFile.path"
    )
    tensors: Mapped[list["BaseTensor"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="BaseTensor.position"
    )

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


class BaseFile(Table):
    """One file of a base, in the Hugging Face layout."""

    __tablename__ = "base_files"

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)

    blob: Mapped[Blob] = relationship(lazy="raise")


class BaseTensor(Table):
    """One tensor of a base, in name order; `sha256` is over its raw little-endian bytes."""

    __tablename__ = "base_tensors"
    __table_args__ = (UniqueConstraint("model_id", "position"),)

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int]
    dtype: Mapped[str] = mapped_column(String(16))
    shape: Mapped[list[int]]
    sha256: Mapped[str] = mapped_column(String(64))


class Patch(Table):
    """A contribution, numbered within its model; what it holds is in its revisions."""

    __tablename__ = "patches"
    __table_args__ = (UniqueConstraint("model_id", "number"),)

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    number: Mapped[int]
    author_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    task: Mapped[str | None] = mapped_column(String(64), index=True)
    revision: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(default=now)

    author: Mapped[User] = relationship(lazy="raise")
    revisions: Mapped[list["PatchRevision"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="PatchRevision.number"
    )


class PatchRevision(Table):
    """Immutable bytes and words of a patch, like a commit; only `state` moves, once."""

    __tablename__ = "patch_revisions"
    __table_args__ = (
        UniqueConstraint("patch_id", "number"),
        one_of("state", "checking", "checked", "refused"),
    )

    id: Mapped[uuid.UUID] = key()
    patch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("patches.id", ondelete="CASCADE"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="checking")
    refusal: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str] = mapped_column(String(200))
    message: Mapped[str] = mapped_column(Text)
    base_digest: Mapped[str] = mapped_column(String(71))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    blob_sha256: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    nnz: Mapped[int | None] = mapped_column(BigInteger)
    density: Mapped[float | None]
    drop_bottom: Mapped[str | None] = mapped_column(String(64))
    drop_top: Mapped[str | None] = mapped_column(String(64))
    granularity: Mapped[str | None] = mapped_column(String(16))
    value_dtype: Mapped[str | None] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=now)

    patch: Mapped[Patch] = relationship(lazy="raise", back_populates="revisions")
    tensors: Mapped[list["PatchTensor"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="PatchTensor.position"
    )


class PatchTensor(Table):
    """What a revision does to one tensor, recomputed here; norms are of the stored values."""

    __tablename__ = "patch_tensors"

    revision_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("patch_revisions.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int]
    dtype: Mapped[str] = mapped_column(String(16))
    shape: Mapped[list[int]]
    nnz: Mapped[int] = mapped_column(BigInteger)
    density: Mapped[float]
    l1: Mapped[float]
    l2: Mapped[float]
    linf: Mapped[float]


class Recipe(Table):
    """What is composed, by content alone: the digest is over the canonical form."""

    __tablename__ = "recipes"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    base_digest: Mapped[str] = mapped_column(String(71))
    alpha: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=now)

    items: Mapped[list["RecipeItem"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="RecipeItem.sha256"
    )


class RecipeItem(Table):
    """One patch of a recipe and its weight, as normalised decimal text."""

    __tablename__ = "recipe_items"

    recipe_digest: Mapped[str] = mapped_column(ForeignKey("recipes.digest", ondelete="CASCADE"), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    weight: Mapped[str] = mapped_column(String(64))


class Composition(Table):
    """The result of a recipe on one model. Its files hold the composed weights and the carried-over rest."""

    __tablename__ = "compositions"
    __table_args__ = (UniqueConstraint("model_id", "recipe_digest"),)

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    recipe_digest: Mapped[str] = mapped_column(ForeignKey("recipes.digest", ondelete="RESTRICT"), index=True)
    weights_digest: Mapped[str] = mapped_column(String(71))
    device: Mapped[str] = mapped_column(String(64))
    seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(default=now)

    files: Mapped[list["CompositionFile"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="CompositionFile.path"
    )


class CompositionFile(Table):
    """One file of a composed model."""

    __tablename__ = "composition_files"

    composition_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("compositions.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)

    blob: Mapped[Blob] = relationship(lazy="raise")


class Job(Table):
    """Work for a worker.

    `attempt` counts claims and fences off a worker that lost its lease; `deaths` counts the leases that ran out.
    `shared` says that somebody else asked for the same since: it is no longer one person's to cancel.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("kind", "import", "check", "compose"),
        one_of("state", "queued", "running", "done", "failed", "cancelled"),
        Index("ix_jobs_state_created_at", "state", "created_at"),
        Index(
            "uq_jobs_active_key",
            "key",
            unique=True,
            sqlite_where=text("state IN ('queued', 'running')"),
            postgresql_where=text("state IN ('queued', 'running')"),
        ),
    )

    id: Mapped[uuid.UUID] = key()
    kind: Mapped[str] = mapped_column(String(16))
    key: Mapped[str] = mapped_column(String(200))
    state: Mapped[str] = mapped_column(String(16), default="queued")
    model: Mapped[str] = mapped_column(String(193))
    subject: Mapped[str] = mapped_column(String(80))
    payload: Mapped[dict[str, Any]]
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    progress: Mapped[float] = mapped_column(default=0.0)
    attempt: Mapped[int] = mapped_column(default=0)
    deaths: Mapped[int] = mapped_column(default=0)
    shared: Mapped[bool] = mapped_column(default=False)
    worker: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[datetime | None]
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]


class AuditEvent(Table):
    """Who did what to what, written in the transaction that did it."""

    __tablename__ = "audit_events"

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[datetime] = mapped_column(default=now)
    user_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    user_name: Mapped[str | None] = mapped_column(String(96))
    action: Mapped[str] = mapped_column(String(64))
    subject: Mapped[str] = mapped_column(String(300), index=True)
    detail: Mapped[dict[str, Any]]

"""Tables of contents: blobs, uploads, and models with the files and tensors of their bases."""

import uuid
from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, String, Text, UniqueConstraint, select
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from registry.db.tables.declare import Table, key, now, one_of
from registry.db.tables.mirrors import Mirror, MirroredRow
from registry.db.tables.people import ROLES, Namespace, User

STORED = ("live", "doomed")  # states of blobs that are on this disk
ELSEWHERE = ("remote", "computed")  # and of those that are not


class Blob(Table):
    """Bytes on disk. Owners have foreign keys to it; a blob without owner or lease is doomed, and later deleted.

    The bytes of a `remote` blob are at the Hub, where the weights of a base by reference are; they are fetched when
    needed. Those of a `computed` blob are nowhere: they are a weight file of a composition, composed when it is read.
    `bucketed_at` is the time since when a bucket has the bytes, too. `checked_at` is when they last hashed right;
    `damaged_at` is set once they are found missing or different, until the same bytes are stored again.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("size >= 0", name="size"),
        one_of("state", *STORED, *ELSEWHERE),
        Index("ix_blobs_state_size", "state", "size"),
    )

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), default="live")
    leased_until: Mapped[datetime] = mapped_column(default=now)
    doomed_at: Mapped[datetime | None]
    bucketed_at: Mapped[datetime | None] = mapped_column(index=True)
    checked_at: Mapped[datetime | None] = mapped_column(default=now, index=True)
    damaged_at: Mapped[datetime | None] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class UploadSession(Table):
    """Announced bytes of one user; once `done`, the user's proof of possession until it expires.

    The bytes count against the quota of the namespace they were announced for.
    """

    __tablename__ = "upload_sessions"
    __table_args__ = (
        one_of("state", "open", "done"),
        CheckConstraint("size >= 0", name="size"),
        UniqueConstraint("user_id", "sha256"),
    )

    id: Mapped[uuid.UUID] = key()
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    namespace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("namespaces.id", ondelete="CASCADE"), index=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    part_size: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(16), default="open")
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime] = mapped_column(index=True)

    parts: Mapped[list["UploadPart"]] = relationship(lazy="raise", cascade="all, delete-orphan", passive_deletes=True)

    @property
    def part_count(self) -> int:
        """The number of parts."""
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
    """`namespace/name`, pinned to one base, with the rules by which its patches are accepted.

    One that is `empty` has a name and no base yet: tools of the Hub ask for it before they push. `source` is where the
    base came from, `hf://org/name@<commit>`, or until it is imported the revision asked for. A base `by_reference` has
    its weights there. `base_commit` is the Hub's name for the files of the base, `dtypes` the number of weights by
    dtype. `mask` has those parameters of a patch's mask that the model has other defaults for. A worker's sweep renews
    `downloads_30d`, the downloads of the last thirty days.
    """

    __tablename__ = "models"
    __table_args__ = (
        UniqueConstraint("namespace_id", "name"),
        one_of("state", "empty", "importing", "ready"),
        one_of("visibility", "public", "private"),
        CheckConstraint("min_approvals BETWEEN 0 AND 10", name="min_approvals"),
        Index("ix_models_downloads_30d_id", "downloads_30d", "id"),
        Index("ix_models_created_at_id", "created_at", "id"),
        Index("ix_models_modified_at_id", "modified_at", "id"),
        Index("ix_models_parameters", "parameters"),
    )

    id: Mapped[uuid.UUID] = key()
    namespace_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("namespaces.id", ondelete="RESTRICT"))
    name: Mapped[str] = mapped_column(String(96))
    creator_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    visibility: Mapped[str] = mapped_column(String(16), default="public")
    license: Mapped[str | None] = mapped_column(String(64))
    min_approvals: Mapped[int] = mapped_column(default=1)
    required_evaluations: Mapped[list[str]] = mapped_column(default=list)
    mask: Mapped[dict[str, Any]] = mapped_column(default=dict, server_default="{}")
    state: Mapped[str] = mapped_column(String(16), default="importing")
    base_digest: Mapped[str | None] = mapped_column(String(71), index=True)
    base_commit: Mapped[str | None] = mapped_column(String(40))
    source: Mapped[str | None] = mapped_column(String(400))
    by_reference: Mapped[bool] = mapped_column(default=False)
    parameters: Mapped[int | None] = mapped_column(BigInteger)
    dtypes: Mapped[dict[str, Any]] = mapped_column(default=dict)
    size: Mapped[int] = mapped_column(BigInteger)
    card: Mapped[str | None] = mapped_column(Text)
    patch_count: Mapped[int] = mapped_column(default=0)
    downloads_30d: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    created_at: Mapped[datetime] = mapped_column(default=now)
    modified_at: Mapped[datetime] = mapped_column(default=now)

    namespace: Mapped[str] = column_property(
        select(Namespace.name).where(Namespace.id == namespace_id).correlate_except(Namespace).scalar_subquery()
    )
    creator: Mapped[str] = column_property(
        select(User.name).where(User.id == creator_id).correlate_except(User).scalar_subquery()
    )
    primary: Mapped[str | None] = column_property(
        select(Mirror.url)
        .where(
            select(MirroredRow.id)
            .where(MirroredRow.kind == "model", MirroredRow.id == id)
            .correlate_except(MirroredRow)
            .exists()
        )
        .correlate_except(Mirror)
        .scalar_subquery()
    )
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


class ModelTag(Table):
    """A word by which a model can be found, as on the Hub: `license:mit`, `transformers`, `text-generation`."""

    __tablename__ = "model_tags"

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(100), primary_key=True, index=True)


class ModelTrigram(Table):
    """Three letters in a row of a model's full name, by which search finds it."""

    __tablename__ = "model_trigrams"

    trigram: Mapped[str] = mapped_column(String(3), primary_key=True)
    model_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("models.id", ondelete="CASCADE"), primary_key=True, index=True
    )


class ModelDownloads(Table):
    """How often a model was downloaded on a day, in UTC."""

    __tablename__ = "model_downloads"

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    count: Mapped[int]


class ModelMember(Table):
    """A user's role on one model, in addition to their role in its namespace."""

    __tablename__ = "model_members"
    __table_args__ = (one_of("role", *ROLES),)

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime] = mapped_column(default=now)

    user: Mapped[User] = relationship(lazy="raise")


class BaseFile(Table):
    """One file of a base, in the Hugging Face layout.

    `header_size` and `header_sha256` are of a weight file's header; None for one that was imported before they were
    hashed.
    """

    __tablename__ = "base_files"

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    header_size: Mapped[int | None] = mapped_column(BigInteger)
    header_sha256: Mapped[str | None] = mapped_column(String(64))

    blob: Mapped[Blob] = relationship(lazy="raise")


class BaseTensor(Table):
    """One tensor of a base, in name order; `sha256` is over its raw little-endian bytes.

    They are at byte `start` of the weight file `path`; None for one that was imported before places were kept.
    """

    __tablename__ = "base_tensors"
    __table_args__ = (UniqueConstraint("model_id", "position"),)

    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    position: Mapped[int]
    dtype: Mapped[str] = mapped_column(String(16))
    shape: Mapped[list[int]]
    sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str | None] = mapped_column(String(255))
    start: Mapped[int | None] = mapped_column(BigInteger)

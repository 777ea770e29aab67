"""Tables of releases and of the channels that point at them.

    releases    draft ── build ──> building ── composed ──> candidate ── publish ──> published ── yank ──> yanked
                  ^────── the composition failed ──┘

A published release is sealed: only its `state`, the yank, the pin and a first signature may change, and none of its
files.
"""

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.compositions import Recipe
from registry.db.tables.contents import Blob
from registry.db.tables.declare import Table, key, now, one_of, seal
from registry.db.tables.people import User


class Release(Table):
    """A version of a model: a recipe, its composition, and the texts about it.

    `sort` orders versions as text. `manifest` is canonical JSON, written when the release is published and signed by a
    maintainer; `commit` is the Hub's name for the files, which are fixed then. A candidate that takes files from
    patches has a commit of its own, too; others have that of their composition. The bytes of one that is `pinned` stay
    on disk, as do those that a channel points at.
    """

    __tablename__ = "releases"
    __table_args__ = (
        UniqueConstraint("model_id", "version"),
        Index("ix_releases_model_id_sort", "model_id", "sort"),
        Index("ix_releases_model_id_state_sort", "model_id", "state", "sort"),
        Index("ix_releases_model_id_recipe_digest", "model_id", "recipe_digest"),
        Index(
            "ix_releases_published",
            "published_at",
            "id",
            sqlite_where=text("state = 'published'"),
            postgresql_where=text("state = 'published'"),
        ),
        one_of("state", "draft", "building", "candidate", "published", "yanked"),
    )

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    version: Mapped[str] = mapped_column(String(64))
    sort: Mapped[str] = mapped_column(String(300))
    state: Mapped[str] = mapped_column(String(16), default="draft")
    recipe_digest: Mapped[str] = mapped_column(ForeignKey("recipes.digest", ondelete="RESTRICT"), index=True)
    previous_version: Mapped[str | None] = mapped_column(String(64))
    allow_yanked: Mapped[bool] = mapped_column(default=False)
    changelog: Mapped[str] = mapped_column(Text)
    card: Mapped[str | None] = mapped_column(Text)
    manifest: Mapped[str | None] = mapped_column(Text)
    commit: Mapped[str | None] = mapped_column(String(40), index=True)
    signature: Mapped[str | None] = mapped_column(Text)
    creator_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    publisher_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    published_at: Mapped[datetime | None]
    yank_reason: Mapped[str | None] = mapped_column(Text)
    yanked_at: Mapped[datetime | None]
    pinned: Mapped[bool] = mapped_column(default=False, server_default=false())

    creator: Mapped[User] = relationship(lazy="raise", foreign_keys=[creator_id])
    publisher: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[publisher_id])
    recipe: Mapped[Recipe] = relationship(lazy="raise")
    files: Mapped[list["ReleaseFile"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="ReleaseFile.path"
    )


seal(
    Release,
    ("state", "signature", "yank_reason", "yanked_at", "pinned"),
    lambda before: before["state"] in ("published", "yanked"),
)


class ReleaseFile(Table):
    """One file of a published release; before that, one that it will take from a patch.

    `revision_id` is the patch's revision that the file came with; None for files of the composition, and the card.
    """

    __tablename__ = "release_files"

    release_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("releases.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    revision_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("patch_revisions.id", ondelete="SET NULL"), index=True
    )

    blob: Mapped[Blob] = relationship(lazy="raise")


class Channel(Table):
    """A name that points at a release, and who may move it.

    `approvals` is how many users must ask for the same move, including the one who moves it.
    """

    __tablename__ = "channels"
    __table_args__ = (
        UniqueConstraint("model_id", "name"),
        one_of("role", "maintainer", "owner"),
        CheckConstraint("approvals BETWEEN 1 AND 10", name="approvals"),
    )

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(32))
    release_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("releases.id", ondelete="RESTRICT"), index=True)
    role: Mapped[str] = mapped_column(String(16), default="maintainer")
    approvals: Mapped[int] = mapped_column(default=1)
    allow_yanked: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)

    release: Mapped[Release | None] = relationship(lazy="raise")


class ChannelMove(Table):
    """One step of a channel's history; its rows never change."""

    __tablename__ = "channel_moves"
    __table_args__ = (UniqueConstraint("channel_id", "number"), one_of("kind", "move", "rollback"))

    id: Mapped[uuid.UUID] = key()
    channel_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("channels.id", ondelete="CASCADE"))
    number: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    release_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("releases.id", ondelete="RESTRICT"), index=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    reason: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(default=now)

    release: Mapped[Release] = relationship(lazy="raise")
    user: Mapped[User] = relationship(lazy="raise")


class ChannelVote(Table):
    """A user's request to move a channel to a release, until enough users have asked for the same."""

    __tablename__ = "channel_votes"

    channel_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("channels.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True)
    release_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("releases.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)

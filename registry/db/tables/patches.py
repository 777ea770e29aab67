"""Tables of patches: their revisions, checks, reviews, comments and evaluations.

patches            draft ── propose ──> proposed ── accept ──> accepted ── accept of a newer one ──> superseded
                     │                   │    ^ │                  ^└ yank ─> yanked
                     │   request changes v    │ └ reject            └ unyank ───┘
                     │       changes_requested ── reject ──> rejected
                     └───── withdraw (also from proposed, changes_requested) ──> withdrawn
quarantine         independent of the state: an admin's `quarantined_at` hides the bytes and stops compositions
patch_revisions    checking ──> checked | refused     otherwise immutable, as are its revision_files
card_proposals     one of a patch without revisions, which is proposed, accepted, rejected or withdrawn
"""

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.declare import Table, key, now, one_of, seal
from registry.db.tables.people import User

if TYPE_CHECKING:
    from registry.db.tables.contents import Model

PATCH_STATES = (
    "draft",
    "proposed",
    "changes_requested",
    "accepted",
    "rejected",
    "withdrawn",
    "superseded",
    "yanked",
)


class Patch(Table):
    """A contribution, numbered within its model; its contents are in its revisions.

    `revision` is 0 as long as nothing was made of what the Hub's tools pushed: then it is in no list of patches. It
    stays 0 if this proposes another card.
    `reason` says why it was rejected, withdrawn or yanked; `superseded_by` is the number of the newer patch.
    """

    __tablename__ = "patches"
    __table_args__ = (
        UniqueConstraint("model_id", "number"),
        one_of("state", *PATCH_STATES),
        Index("ix_patches_model_id_state_number", "model_id", "state", "number"),
        Index("ix_patches_model_id_task_number", "model_id", "task", "number"),
        Index("ix_patches_model_id_author_id_state_number", "model_id", "author_id", "state", "number"),
        Index("ix_patches_author_id_created_at_id", "author_id", "created_at", "id"),
        Index(
            "ix_patches_proposed",
            "created_at",
            "id",
            sqlite_where=text("state = 'proposed'"),
            postgresql_where=text("state = 'proposed'"),
        ),
        Index(
            "ix_patches_quarantined_at",
            "quarantined_at",
            "id",
            sqlite_where=text("quarantined_at IS NOT NULL"),
            postgresql_where=text("quarantined_at IS NOT NULL"),
        ),
    )

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(32), default="draft")
    reason: Mapped[str | None] = mapped_column(Text)
    superseded_by: Mapped[int | None]
    quarantined_at: Mapped[datetime | None]
    quarantine_reason: Mapped[str | None] = mapped_column(Text)
    author_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"))
    task: Mapped[str | None] = mapped_column(String(64))
    revision: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(default=now)

    author: Mapped[User] = relationship(lazy="raise")
    model: Mapped["Model"] = relationship(lazy="raise")
    revisions: Mapped[list["PatchRevision"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="PatchRevision.number"
    )


class PatchRevision(Table):
    """The immutable bytes and texts of a patch, like a commit; only `state` changes, once.

    `norm` is the L2 norm of all its values, `base_norm` that of the base's weights in the tensors that it touches;
    `rounding` is the share of the values that rounding explains (`checking.finite`). The last two are None for one that
    was checked before they were measured. `commit` is the Hub's name for the patch alone, composed, with the files that
    came with it in place of the base's; None until it is composed, and if no files came; compositions
    that were made before there was this column never get one. `origin` is the run of a workflow that pushed it by
    trusted publishing, as its identity token said. `header_size` and `header_sha256` are of the file's header, with
    which parts of the file can be read; None for one that was checked before they were hashed.
    """

    __tablename__ = "patch_revisions"
    __table_args__ = (
        UniqueConstraint("patch_id", "number"),
        one_of("state", "checking", "checked", "refused"),
        Index(
            "ix_patch_revisions_commit",
            "commit",
            sqlite_where=text('"commit" IS NOT NULL'),
            postgresql_where=text('"commit" IS NOT NULL'),
        ),
    )

    id: Mapped[uuid.UUID] = key()
    patch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("patches.id", ondelete="CASCADE"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), default="checking")
    refusal: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str] = mapped_column(String(200))
    message: Mapped[str] = mapped_column(Text)
    license: Mapped[str | None] = mapped_column(String(64))
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
    norm: Mapped[float | None]
    rounding: Mapped[float | None]
    base_norm: Mapped[float | None]
    header_size: Mapped[int | None] = mapped_column(BigInteger)
    header_sha256: Mapped[str | None] = mapped_column(String(64))
    commit: Mapped[str | None] = mapped_column(String(40))
    origin: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    patch: Mapped[Patch] = relationship(lazy="raise", back_populates="revisions")
    tensors: Mapped[list["PatchTensor"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="PatchTensor.position"
    )
    files: Mapped[list["RevisionFile"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="RevisionFile.path"
    )


MEASURED = (
    "nnz",
    "density",
    "drop_bottom",
    "drop_top",
    "granularity",
    "value_dtype",
    "rounding",
    "base_norm",
    "header_size",
    "header_sha256",
)
"""What a worker finds out of a revision by its file."""
seal(PatchRevision, ("state", "refusal", "blob_sha256", *MEASURED, "norm", "commit"), lambda before: True)


class RevisionFile(Table):
    """A file that comes with a revision beside its weights, which a release may take; gone if the revision is refused.

    `keys` is, once checked, in which keys a JSON file differs from the base's: `{"keys": [[key, before, after], ...],
    "more": 0}`, with values as shortened JSON; None for other files, and for those that the base does not have.
    """

    __tablename__ = "revision_files"

    revision_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("patch_revisions.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    keys: Mapped[dict[str, Any] | None]


seal(RevisionFile, ("keys",), lambda before: True)


class CardProposal(Table):
    """Another card of the model, which a patch without revisions proposes; `commit` is the Hub's name for the text.

    `before` is the card that the model had when this was accepted; until then, and otherwise, it is None.
    """

    __tablename__ = "card_proposals"

    patch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("patches.id", ondelete="CASCADE"), primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    message: Mapped[str] = mapped_column(Text)
    card: Mapped[str] = mapped_column(Text)
    before: Mapped[str | None] = mapped_column(Text)
    commit: Mapped[str] = mapped_column(String(40), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)

    patch: Mapped[Patch] = relationship(lazy="raise")


class PatchTensor(Table):
    """What a revision does to one tensor, recomputed by the server; norms are of the stored values.

    `extents` are where the file has the mask and the values, each as first byte, byte after the last, and sha256; None
    for one that was checked before they were hashed.
    """

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
    extents: Mapped[list[Any] | None]


class Check(Table):
    """The result of one check of a revision; one that is `required` and failed keeps the patch from being accepted."""

    __tablename__ = "checks"
    __table_args__ = (one_of("status", "pass", "warn", "fail"),)

    revision_id: Mapped[uuid.UUID] = mapped_column(
        ForeignKey("patch_revisions.id", ondelete="CASCADE"), primary_key=True
    )
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    position: Mapped[int]
    required: Mapped[bool]
    status: Mapped[str] = mapped_column(String(8))
    summary: Mapped[str] = mapped_column(Text)


class Review(Table):
    """A verdict on one revision, and so on its sha256; the newest of each reviewer counts.

    `about` has the tensors that it refers to, as names and globs.
    """

    __tablename__ = "reviews"
    __table_args__ = (one_of("verdict", "approve", "request_changes"),)

    id: Mapped[uuid.UUID] = key()
    revision_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("patch_revisions.id", ondelete="CASCADE"), index=True)
    reviewer_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    verdict: Mapped[str] = mapped_column(String(16))
    message: Mapped[str] = mapped_column(Text)
    about: Mapped[list[str] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    reviewer: Mapped[User] = relationship(lazy="raise")
    revision: Mapped[PatchRevision] = relationship(lazy="raise")


class Comment(Table):
    """A comment on a patch, or on one revision of it.

    One that was deleted stays, without its text; one that is hidden keeps it, for those who may hide comments. `about`
    has the tensors of the revision that it refers to, as names and globs.
    """

    __tablename__ = "comments"
    __table_args__ = (Index("ix_comments_patch_id_created_at_id", "patch_id", "created_at", "id"),)

    id: Mapped[uuid.UUID] = key()
    patch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("patches.id", ondelete="CASCADE"))
    revision: Mapped[int | None]
    author_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    message: Mapped[str] = mapped_column(Text)
    about: Mapped[list[str] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    edited_at: Mapped[datetime | None]
    deleted_by_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    deleted_at: Mapped[datetime | None]
    deletion_reason: Mapped[str | None] = mapped_column(Text)
    hidden_by_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    hidden_at: Mapped[datetime | None]
    hiding_reason: Mapped[str | None] = mapped_column(Text)

    author: Mapped[User] = relationship(lazy="raise", foreign_keys=[author_id])
    deleted_by: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[deleted_by_id])
    hidden_by: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[hidden_by_id])


class CommentEdit(Table):
    """A text that a comment had before, and when it was written; gone with the comment's own text."""

    __tablename__ = "comment_edits"

    id: Mapped[uuid.UUID] = key()
    comment_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("comments.id", ondelete="CASCADE"), index=True)
    message: Mapped[str] = mapped_column(Text)
    written_at: Mapped[datetime]


class Evaluation(Table):
    """One measured number of a patch revision, of a release, of a recipe, or of the base if it has none of these.

    One of a recipe stays when its composition is deleted: whoever composes it again gets the same weights. `tried` is
    how many candidates were measured to choose the recipe.
    """

    __tablename__ = "evaluations"
    __table_args__ = (
        CheckConstraint(
            "(revision_id IS NULL AND release_id IS NULL) OR (revision_id IS NULL AND recipe_digest IS NULL) "
            "OR (release_id IS NULL AND recipe_digest IS NULL)",
            name="subject",
        ),
        CheckConstraint("tried >= 1", name="tried"),
        CheckConstraint("stderr >= 0", name="stderr"),
        Index(
            "ix_evaluations_subject",
            *("model_id", "revision_id", "release_id", "recipe_digest", "created_at"),
        ),
    )

    id: Mapped[uuid.UUID] = key()
    model_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("models.id", ondelete="CASCADE"))
    revision_id: Mapped[uuid.UUID | None] = mapped_column(
        ForeignKey("patch_revisions.id", ondelete="CASCADE"), index=True
    )
    release_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("releases.id", ondelete="CASCADE"), index=True)
    recipe_digest: Mapped[str | None] = mapped_column(ForeignKey("recipes.digest", ondelete="RESTRICT"), index=True)
    task: Mapped[str] = mapped_column(String(100))
    dataset: Mapped[str] = mapped_column(String(200))
    metric: Mapped[str] = mapped_column(String(100))
    value: Mapped[float]
    stderr: Mapped[float | None]
    higher_is_better: Mapped[bool]
    source: Mapped[str | None] = mapped_column(String(500))
    command: Mapped[str | None] = mapped_column(Text)
    tried: Mapped[int | None]
    user_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("users.id", ondelete="RESTRICT"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)

    user: Mapped[User] = relationship(lazy="raise")
    revision: Mapped[PatchRevision | None] = relationship(lazy="raise")

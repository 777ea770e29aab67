"""Tables of pushes: what tools of the Hub send for a patch, from which a worker makes its revisions.

pushes   open ── a commit with weights ──> diffing ──> done | failed ── the next such commit ──> diffing
"""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from registry.db.tables.declare import Table, now, one_of
from registry.db.tables.patches import Patch

PUSH_STATES = ("open", "diffing", "done", "failed")


class Push(Table):
    """A pull request of the Hub's tools: a patch whose revisions are made here, and the texts and options for them.

    The patch has no revision until its first diff is done. `options` are those of a diff, and what else a commit's
    description said; `error` is why the last diff made no revision; `commit` is what the newest commit is called, and
    `origin` the run of a workflow that sent it by trusted publishing.
    """

    __tablename__ = "pushes"
    __table_args__ = (one_of("state", *PUSH_STATES),)

    patch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("patches.id", ondelete="CASCADE"), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), default="open")
    propose: Mapped[bool]
    title: Mapped[str] = mapped_column(String(200))
    message: Mapped[str] = mapped_column(Text)
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[str | None] = mapped_column(Text)
    commit: Mapped[str | None] = mapped_column(String(40), index=True)
    origin: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)

    patch: Mapped[Patch] = relationship(lazy="raise")
    files: Mapped[list["PushedFile"]] = relationship(
        lazy="raise", cascade="all, delete-orphan", passive_deletes=True, order_by="PushedFile.path"
    )


class PushedFile(Table):
    """A file that a push has in place of the base's, or without its like there; a deleted one has no `sha256`.

    The bytes of weights are let go of once they were compared with the base; then there is no `blob_sha256`.
    """

    __tablename__ = "pushed_files"

    patch_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("pushes.patch_id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    sha256: Mapped[str | None] = mapped_column(String(64))
    blob_sha256: Mapped[str | None] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)

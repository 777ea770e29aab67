"""Tables of conflicts: what patches have in common, by content alone, computed once for all models."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from registry.db.tables.declare import Table, now


class PatchPair(Table):
    """What two patches of one base do to the same weights.

    `sums` and each of `tensors` have the fields of `breadcrumbs.comparing.sums.Sums`; the former is over all tensors.
    """

    __tablename__ = "patch_pairs"
    __table_args__ = (
        CheckConstraint("first_sha256 < second_sha256", name="order"),
        Index("ix_patch_pairs_second_sha256", "second_sha256"),
    )

    first_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    second_sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    sums: Mapped[dict[str, Any]]
    tensors: Mapped[dict[str, Any]] = mapped_column(deferred=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class PatchSet(Table):
    """How many weights of each tensor are touched by 0, 1, 2, … of a set of patches.

    The digest is the sha256 over their sorted digests, one per line.
    """

    __tablename__ = "patch_sets"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    census: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)

"""files that a release takes from patches"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "c41f7a2e9d06"
down_revision: str | None = "5b0e93d7c1a8"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.batch_alter_table("release_files", schema=None) as batch_op:
        batch_op.add_column(sa.Column("revision_id", sa.Uuid(), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_release_files_revision_id_patch_revisions"),
            "patch_revisions",
            ["revision_id"],
            ["id"],
            ondelete="SET NULL",
        )
        batch_op.create_index(batch_op.f("ix_release_files_revision_id"), ["revision_id"], unique=False)


def downgrade() -> None:
    unfinished = "release_id IN (SELECT id FROM releases WHERE state NOT IN ('published', 'yanked'))"
    op.execute(f"DELETE FROM release_files WHERE {unfinished}")  # noqa: S608
    op.execute("UPDATE releases SET \"commit\" = NULL WHERE state NOT IN ('published', 'yanked')")
    with op.batch_alter_table("release_files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_release_files_revision_id"))
        batch_op.drop_constraint(batch_op.f("fk_release_files_revision_id_patch_revisions"), type_="foreignkey")
        batch_op.drop_column("revision_id")

"""files that come with a revision of a patch, beside its weights"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "5b0e93d7c1a8"
down_revision: str | None = "5f0c2ab9e713"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "revision_files",
        sa.Column("revision_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("keys", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(
            ["revision_id"],
            ["patch_revisions.id"],
            name=op.f("fk_revision_files_revision_id_patch_revisions"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["sha256"], ["blobs.sha256"], name=op.f("fk_revision_files_sha256_blobs"), ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("revision_id", "path", name=op.f("pk_revision_files")),
    )
    op.create_index(op.f("ix_revision_files_sha256"), "revision_files", ["sha256"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_revision_files_sha256"), table_name="revision_files")
    op.drop_table("revision_files")

"""mirrors: the registry that this one follows, and what comes from there"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "b58d02e6c913"
down_revision: str | None = "d3b96f0e5a17"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "mirrors",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("registry_id", sa.Uuid(), nullable=False),
        sa.Column("names", sa.JSON(), nullable=True),
        sa.Column("cursor", sa.BigInteger(), nullable=True),
        sa.Column("hash", sa.String(64), nullable=True),
        sa.Column("head", sa.BigInteger(), nullable=False),
        sa.Column("current_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.Column("stopped", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_mirrors_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mirrors")),
    )
    op.create_table(
        "mirrored_rows",
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("complete", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('model', 'user', 'namespace')", name=op.f("ck_mirrored_rows_kind")),
        sa.PrimaryKeyConstraint("kind", "id", name=op.f("pk_mirrored_rows")),
    )
    op.create_table(
        "mirrored_files",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_mirrored_files")),
    )


def downgrade() -> None:
    op.drop_table("mirrored_files")
    op.drop_table("mirrored_rows")
    op.drop_table("mirrors")

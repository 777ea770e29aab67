"""where each tensor is in a patch file and in a base's weight files, with digests, so that parts can be verified"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "b5e07d3f91ac"
down_revision: str | None = "7a41c6e2d9f8"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

HEADERS = ("patch_revisions", "base_files")


def upgrade() -> None:
    for table in HEADERS:
        op.add_column(table, sa.Column("header_size", sa.BigInteger(), nullable=True))
        op.add_column(table, sa.Column("header_sha256", sa.String(64), nullable=True))
    op.add_column("patch_tensors", sa.Column("extents", sa.JSON(), nullable=True))
    op.add_column("base_tensors", sa.Column("path", sa.String(255), nullable=True))
    op.add_column("base_tensors", sa.Column("start", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("base_tensors", "start")
    op.drop_column("base_tensors", "path")
    op.drop_column("patch_tensors", "extents")
    for table in HEADERS:
        op.drop_column(table, "header_sha256")
        op.drop_column(table, "header_size")

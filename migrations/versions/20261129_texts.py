"""texts: how much a user has written, deleted comments"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "d75f1a9c4e22"
down_revision: str | None = "b3c6e2f48d10"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.add_column(sa.Column("text_bytes", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("text_since", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.alter_column("text_bytes", server_default=None)
    with op.batch_alter_table("comments", schema=None) as batch_op:
        batch_op.add_column(sa.Column("deleted_by_id", sa.Uuid(), nullable=True))
        batch_op.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("deletion_reason", sa.Text(), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_comments_deleted_by_id_users"), "users", ["deleted_by_id"], ["id"], ondelete="RESTRICT"
        )
        batch_op.create_index(batch_op.f("ix_comments_deleted_by_id"), ["deleted_by_id"], unique=False)
        batch_op.drop_index(batch_op.f("ix_comments_patch_id"))
        batch_op.create_index("ix_comments_patch_id_created_at_id", ["patch_id", "created_at", "id"])


def downgrade() -> None:
    with op.batch_alter_table("comments", schema=None) as batch_op:
        batch_op.drop_index("ix_comments_patch_id_created_at_id")
        batch_op.create_index(batch_op.f("ix_comments_patch_id"), ["patch_id"], unique=False)
        batch_op.drop_index(batch_op.f("ix_comments_deleted_by_id"))
        batch_op.drop_constraint(batch_op.f("fk_comments_deleted_by_id_users"), type_="foreignkey")
        for column in ("deletion_reason", "deleted_at", "deleted_by_id"):
            batch_op.drop_column(column)
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.drop_column("text_since")
        batch_op.drop_column("text_bytes")

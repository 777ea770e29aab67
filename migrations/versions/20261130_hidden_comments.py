"""hidden comments: who hid them, when and why"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "f1b83d6e0a27"
down_revision: str | None = "a6d30e815c94"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.batch_alter_table("comments", schema=None) as batch_op:
        batch_op.add_column(sa.Column("hidden_by_id", sa.Uuid(), nullable=True))
        batch_op.add_column(sa.Column("hidden_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("hiding_reason", sa.Text(), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_comments_hidden_by_id_users"), "users", ["hidden_by_id"], ["id"], ondelete="RESTRICT"
        )
        batch_op.create_index(batch_op.f("ix_comments_hidden_by_id"), ["hidden_by_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("comments", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_comments_hidden_by_id"))
        batch_op.drop_constraint(batch_op.f("fk_comments_hidden_by_id_users"), type_="foreignkey")
        for column in ("hiding_reason", "hidden_at", "hidden_by_id"):
            batch_op.drop_column(column)

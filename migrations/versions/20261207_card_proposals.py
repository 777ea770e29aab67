"""proposals of cards"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "d27b41f09e6c"
down_revision: str | None = "8e15c0d2b7f4"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "card_proposals",
        sa.Column("patch_id", sa.Uuid(), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("card", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=True),
        sa.Column("commit", sa.String(40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["patch_id"], ["patches.id"], name=op.f("fk_card_proposals_patch_id_patches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("patch_id", name=op.f("pk_card_proposals")),
    )
    op.create_index(op.f("ix_card_proposals_commit"), "card_proposals", ["commit"], unique=False)


def downgrade() -> None:
    op.execute(
        "DELETE FROM comments WHERE patch_id IN (SELECT patch_id FROM card_proposals)"
    )  # SQLite cascades nothing
    op.execute("DELETE FROM patches WHERE id IN (SELECT patch_id FROM card_proposals)")
    op.drop_index(op.f("ix_card_proposals_commit"), table_name="card_proposals")
    op.drop_table("card_proposals")

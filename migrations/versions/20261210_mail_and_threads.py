"""addresses for news by e-mail; comments that are edited, and what comments and verdicts are about"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "9c2e7a41d5b8"
down_revision: str | None = "6f3d90b8a1c5"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "mail_addresses",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.String(254), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("rhythm", sa.String(16), nullable=False),
        sa.Column("secret", sa.String(64), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("answer", sa.String(500), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('asked', 'sent', 'verified', 'refused')", name=op.f("ck_mail_addresses_state")),
        sa.CheckConstraint("rhythm IN ('at_once', 'daily', 'off')", name=op.f("ck_mail_addresses_rhythm")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_mail_addresses_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_mail_addresses")),
    )
    op.create_index(op.f("ix_mail_addresses_due_at"), "mail_addresses", ["due_at"])
    op.add_column("mentions", sa.Column("mailed", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("comments", sa.Column("about", sa.JSON(), nullable=True))
    op.add_column("comments", sa.Column("edited_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("reviews", sa.Column("about", sa.JSON(), nullable=True))
    op.create_table(
        "comment_edits",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("comment_id", sa.Uuid(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("written_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["comment_id"], ["comments.id"], name=op.f("fk_comment_edits_comment_id_comments"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_comment_edits")),
    )
    op.create_index(op.f("ix_comment_edits_comment_id"), "comment_edits", ["comment_id"])


def downgrade() -> None:
    op.drop_table("comment_edits")
    op.drop_column("reviews", "about")
    op.drop_column("comments", "edited_at")
    op.drop_column("comments", "about")
    op.drop_column("mentions", "mailed")
    op.drop_table("mail_addresses")

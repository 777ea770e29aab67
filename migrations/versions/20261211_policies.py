"""the policy of admins"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "c41d7a90e2b6"
down_revision: str | None = "9c2e7a41d5b8"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("registration", sa.String(16), nullable=True),
        sa.Column("licenses", sa.JSON(), nullable=True),
        sa.Column("min_drop_bottom", sa.String(42), nullable=True),
        sa.Column("min_drop_top", sa.String(42), nullable=True),
        sa.Column("hub_models", sa.JSON(), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("registration IN ('closed', 'invitation', 'open')", name=op.f("ck_policies_registration")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
    )


def downgrade() -> None:
    op.drop_table("policies")

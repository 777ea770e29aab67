"""the id of the registry"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "6f3d90b8a1c5"
down_revision: str | None = "5b0e93f7c1a4"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "registry_ids",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("registry_id", sa.Uuid(), nullable=False),
        sa.Column("storage", sa.String(16), server_default="disk", nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("storage IN ('disk', 'bucket')", name=op.f("ck_registry_ids_storage")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registry_ids")),
    )


def downgrade() -> None:
    op.drop_table("registry_ids")

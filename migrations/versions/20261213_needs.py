"""what jobs need and what workers can do"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "c2f81d6e40b7"
down_revision: str | None = "b5e07d3f91ac"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("base_digest", sa.String(71), nullable=True))
    op.add_column("jobs", sa.Column("bytes", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("passed", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("ix_jobs_kind_state_rank_turn_created_at", "jobs", ["kind", "state", "rank", "turn", "created_at"])
    op.add_column("workers", sa.Column("kinds", sa.JSON(), nullable=True))
    op.add_column("workers", sa.Column("most_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "most_bytes")
    op.drop_column("workers", "kinds")
    op.drop_index("ix_jobs_kind_state_rank_turn_created_at", "jobs")
    op.drop_column("jobs", "passed")
    op.drop_column("jobs", "bytes")
    op.drop_column("jobs", "base_digest")

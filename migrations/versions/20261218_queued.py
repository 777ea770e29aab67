"""an index of the queue that has the bytes of jobs, for workers that take small ones alone"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "e47a9c1b6d25"
down_revision: str | None = "4d1f86c2b7ae"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLUMNS = ["state", "rank", "turn", "created_at", "kind", "bytes", "not_worker"]
QUEUED = sa.text("state = 'queued'")


def upgrade() -> None:
    op.create_index("ix_jobs_queued", "jobs", COLUMNS, sqlite_where=QUEUED, postgresql_where=QUEUED)


def downgrade() -> None:
    op.drop_index("ix_jobs_queued", "jobs")

"""norms: the L2 norm of each patch, and how much of it is rounding, kept with it"""

import math
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "b84f2d6c1e57"
down_revision: str | None = "e19a7c3f5b24"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("patch_revisions", sa.Column("norm", sa.Double(), nullable=True))
    op.add_column("patch_revisions", sa.Column("rounding", sa.Double(), nullable=True))
    squares = "SELECT revision_id, sum(l2 * l2) AS squares FROM patch_tensors GROUP BY revision_id"
    rows = op.get_bind().execute(sa.text(squares)).all()
    if rows:
        op.get_bind().execute(
            sa.text("UPDATE patch_revisions SET norm = :norm WHERE id = :id"),
            [{"id": row.revision_id, "norm": math.sqrt(row.squares)} for row in rows],
        )


def downgrade() -> None:
    op.drop_column("patch_revisions", "rounding")
    op.drop_column("patch_revisions", "norm")

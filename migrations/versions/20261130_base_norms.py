"""base norms: the L2 norm of the base's weights that each patch is for, kept with it"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "d4f0a7b92c63"
down_revision: str | None = "b83f6d20c4a1"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("patch_revisions", sa.Column("base_norm", sa.Double(), nullable=True))


def downgrade() -> None:
    op.drop_column("patch_revisions", "base_norm")

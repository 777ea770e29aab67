"""masks of new patches, as a model's maintainers set them"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "d83b1f6a40ce"
down_revision: str | None = "8e1c5d7f0a26"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("models", sa.Column("mask", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    op.drop_column("models", "mask")

"""damaged blobs"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "b5d20c9e71f4"
down_revision: str | None = "d75f1a9c4e22"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    for name in ("checked_at", "damaged_at"):
        op.add_column("blobs", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
        op.create_index(f"ix_blobs_{name}", "blobs", [name])
    op.execute("UPDATE blobs SET checked_at = created_at")


def downgrade() -> None:
    for name in ("damaged_at", "checked_at"):
        op.drop_index(f"ix_blobs_{name}", "blobs")
        op.drop_column("blobs", name)

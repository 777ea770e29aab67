"""commit ids of patches alone, with the files that came with them"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "8e15c0d2b7f4"
down_revision: str | None = "d83b1f6a40ce"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("patch_revisions", sa.Column("commit", sa.String(40), nullable=True))
    op.create_index(
        "ix_patch_revisions_commit",
        "patch_revisions",
        ["commit"],
        unique=False,
        sqlite_where=sa.text('"commit" IS NOT NULL'),
        postgresql_where=sa.text('"commit" IS NOT NULL'),
    )


def downgrade() -> None:
    op.drop_index("ix_patch_revisions_commit", table_name="patch_revisions")
    op.drop_column("patch_revisions", "commit")

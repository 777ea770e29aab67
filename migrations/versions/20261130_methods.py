"""methods and weights by tensor"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "e19a7c3f5b24"
down_revision: str | None = "f1b83d6e0a27"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("recipes", sa.Column("method", sa.String(16), nullable=False, server_default="sum"))
    op.add_column("recipe_items", sa.Column("factors", sa.JSON(), nullable=True))


def downgrade() -> None:
    newer = "SELECT count(*) FROM recipes LEFT JOIN recipe_items ON recipe_digest = digest "
    newer += "WHERE method != 'sum' OR factors IS NOT NULL"
    if op.get_bind().scalar(sa.text(newer)):
        raise RuntimeError("There are recipes that the older program cannot read: of other methods, or with factors.")
    op.drop_column("recipe_items", "factors")
    op.drop_column("recipes", "method")

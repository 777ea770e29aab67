"""mirror problems: models that could not be taken over, what admins of a mirror took down, and builds by hearsay"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "4d1f86c2b7ae"
down_revision: str | None = "b58d02e6c913"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "mirror_problems",
        sa.Column("name", sa.String(193), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("retry_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_mirror_problems")),
    )
    op.create_table(
        "moderated_rows",
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("there", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('patch', 'comment')", name=op.f("ck_moderated_rows_kind")),
        sa.PrimaryKeyConstraint("kind", "id", name=op.f("pk_moderated_rows")),
    )
    op.add_column("builds", sa.Column("told", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_releases_model_id_recipe_digest", "releases", ["model_id", "recipe_digest"])


def downgrade() -> None:
    op.drop_index("ix_releases_model_id_recipe_digest", "releases")
    op.drop_column("builds", "told")
    op.drop_table("moderated_rows")
    op.drop_table("mirror_problems")

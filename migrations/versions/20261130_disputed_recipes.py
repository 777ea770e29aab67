"""disputed recipes: whether some builds of a recipe differ, kept with it"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "a6d30e815c94"
down_revision: str | None = "e2a94c7b5d10"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("recipes", sa.Column("disputed", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index(
        "ix_recipes_disputed",
        "recipes",
        ["digest"],
        sqlite_where=sa.text("disputed = 1"),
        postgresql_where=sa.text("disputed"),
    )
    recipes = sa.table("recipes", sa.column("digest"), sa.column("disputed"))
    builds = sa.table("builds", sa.column("recipe_digest"), sa.column("weights_digest"))
    differ = sa.select(builds.c.recipe_digest).group_by(builds.c.recipe_digest)
    differ = differ.having(sa.func.count(builds.c.weights_digest.distinct()) > 1)
    op.execute(sa.update(recipes).where(recipes.c.digest.in_(differ)).values(disputed=True))


def downgrade() -> None:
    op.drop_index("ix_recipes_disputed", "recipes")
    op.execute("ALTER TABLE recipes DROP COLUMN disputed")

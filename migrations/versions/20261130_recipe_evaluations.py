"""evaluations of recipes, and among how many candidates they were chosen"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "7c25e9b1d0f4"
down_revision: str | None = "b84f2d6c1e57"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

ONE_SUBJECT = (
    "(revision_id IS NULL AND release_id IS NULL) OR (revision_id IS NULL AND recipe_digest IS NULL) "
    "OR (release_id IS NULL AND recipe_digest IS NULL)"
)


def upgrade() -> None:
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("recipe_digest", sa.String(64), nullable=True))
        batch_op.add_column(sa.Column("tried", sa.Integer(), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_evaluations_recipe_digest_recipes"),
            "recipes",
            ["recipe_digest"],
            ["digest"],
            ondelete="RESTRICT",
        )
        batch_op.drop_constraint(batch_op.f("ck_evaluations_subject"), type_="check")
        batch_op.create_check_constraint(batch_op.f("ck_evaluations_subject"), ONE_SUBJECT)
        batch_op.create_check_constraint(batch_op.f("ck_evaluations_tried"), "tried >= 1")
        batch_op.create_index(batch_op.f("ix_evaluations_recipe_digest"), ["recipe_digest"], unique=False)


def downgrade() -> None:
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM evaluations WHERE recipe_digest IS NOT NULL")):
        raise RuntimeError("There are evaluations that the older program would take for ones of the base: of recipes.")
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_evaluations_recipe_digest"))
        batch_op.drop_constraint(batch_op.f("ck_evaluations_tried"), type_="check")
        batch_op.drop_constraint(batch_op.f("ck_evaluations_subject"), type_="check")
        batch_op.create_check_constraint(
            batch_op.f("ck_evaluations_subject"), "revision_id IS NULL OR release_id IS NULL"
        )
        batch_op.drop_constraint(batch_op.f("fk_evaluations_recipe_digest_recipes"), type_="foreignkey")
        batch_op.drop_column("tried")
        batch_op.drop_column("recipe_digest")

"""standard errors of evaluations, and an index by subject"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "b83f6d20c4a1"
down_revision: str | None = "7c25e9b1d0f4"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.add_column(sa.Column("stderr", sa.Double(), nullable=True))
        batch_op.create_check_constraint(batch_op.f("ck_evaluations_stderr"), "stderr >= 0")
        batch_op.create_index(
            "ix_evaluations_subject", ["model_id", "revision_id", "release_id", "recipe_digest", "created_at"]
        )
        batch_op.drop_index(batch_op.f("ix_evaluations_model_id"))


def downgrade() -> None:
    with op.batch_alter_table("evaluations", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_evaluations_model_id"), ["model_id"], unique=False)
        batch_op.drop_index("ix_evaluations_subject")
        batch_op.drop_constraint(batch_op.f("ck_evaluations_stderr"), type_="check")
        batch_op.drop_column("stderr")

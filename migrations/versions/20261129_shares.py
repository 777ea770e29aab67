"""shares of the queue and of quotas: the place of a job, who asked for a composition"""

import uuid
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "b3c6e2f48d10"
down_revision: str | None = "4d0b6a7c91e2"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("rank", sa.Integer(), nullable=False, server_default="1"))
        batch_op.add_column(sa.Column("turn", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("size", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.drop_index(batch_op.f("ix_jobs_user_id"))
        batch_op.create_index("ix_jobs_state_rank_turn_created_at", ["state", "rank", "turn", "created_at"])
        batch_op.create_index("ix_jobs_user_id_state", ["user_id", "state"])
        batch_op.create_index("ix_jobs_model_state", ["model", "state"])
    op.execute("UPDATE jobs SET rank = 0 WHERE kind IN ('check', 'import')")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        for column in ("rank", "turn", "size"):
            batch_op.alter_column(column, server_default=None)
    with op.batch_alter_table("compositions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("user_id", sa.Uuid(), nullable=True))
        batch_op.create_foreign_key(
            batch_op.f("fk_compositions_user_id_users"), "users", ["user_id"], ["id"], ondelete="RESTRICT"
        )
        batch_op.create_index(batch_op.f("ix_compositions_user_id"), ["user_id"], unique=False)
    attribute()


def attribute() -> None:
    """Let compositions count for the user whose job composed them."""
    jobs = sa.table("jobs", sa.column("key"), sa.column("kind"), sa.column("state"), sa.column("user_id", sa.Uuid()))
    compositions = sa.table(
        "compositions", sa.column("model_id", sa.Uuid()), sa.column("recipe_digest"), sa.column("user_id", sa.Uuid())
    )
    done = sa.select(jobs.c.key, jobs.c.user_id).where(jobs.c.kind == "compose", jobs.c.state == "done")
    for key, user_id in op.get_bind().execute(done).all():
        _, model_id, digest = key.split(":")
        theirs = compositions.c.model_id == uuid.UUID(model_id), compositions.c.recipe_digest == digest
        op.execute(compositions.update().where(*theirs).values(user_id=user_id))


def downgrade() -> None:
    with op.batch_alter_table("compositions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_compositions_user_id"))
        batch_op.drop_constraint(batch_op.f("fk_compositions_user_id_users"), type_="foreignkey")
        batch_op.drop_column("user_id")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_model_state")
        batch_op.drop_index("ix_jobs_user_id_state")
        batch_op.drop_index("ix_jobs_state_rank_turn_created_at")
        batch_op.create_index(batch_op.f("ix_jobs_user_id"), ["user_id"], unique=False)
        for column in ("size", "turn", "rank"):
            batch_op.drop_column(column)

"""parts of jobs: the weight files of a composition that is under way; and the nodes that composed a build"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "d3b96f0e5a17"
down_revision: str | None = "c2f81d6e40b7"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "job_parts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.String(255), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("blob_sha256", sa.String(64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("tensors", sa.JSON(), nullable=False),
        sa.Column("negative", sa.JSON(), nullable=False),
        sa.Column("builder", sa.String(200), nullable=False),
        sa.Column("device", sa.String(64), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["blob_sha256"], ["blobs.sha256"], name=op.f("fk_job_parts_blob_sha256_blobs"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_parts_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "path", "sha256", name=op.f("pk_job_parts")),
    )
    op.create_index("ix_job_parts_blob_sha256", "job_parts", ["blob_sha256"])
    op.add_column("builds", sa.Column("nodes", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.execute("ALTER TABLE builds DROP COLUMN nodes")
    op.drop_table("job_parts")

"""pushes: what tools of the Hub send for a patch, models without a base yet, and jobs that make patches"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "a7c41e85d09f"
down_revision: str | None = "d4f0a7b92c63"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    constrain("models", "state", "state IN ('empty', 'importing', 'ready')")
    constrain("jobs", "kind", "kind IN ('import', 'check', 'diff', 'compose', 'rebuild', 'conflicts')")
    op.create_table(
        "pushes",
        sa.Column("patch_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("propose", sa.Boolean(), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("commit", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('open', 'diffing', 'done', 'failed')", name=op.f("ck_pushes_state")),
        sa.ForeignKeyConstraint(
            ["patch_id"], ["patches.id"], name=op.f("fk_pushes_patch_id_patches"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("patch_id", name=op.f("pk_pushes")),
    )
    op.create_index(op.f("ix_pushes_commit"), "pushes", ["commit"])
    op.create_table(
        "pushed_files",
        sa.Column("patch_id", sa.Uuid(), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("blob_sha256", sa.String(length=64), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["blob_sha256"], ["blobs.sha256"], name=op.f("fk_pushed_files_blob_sha256_blobs"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["patch_id"], ["pushes.patch_id"], name=op.f("fk_pushed_files_patch_id_pushes"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("patch_id", "path", name=op.f("pk_pushed_files")),
    )
    op.create_index(op.f("ix_pushed_files_blob_sha256"), "pushed_files", ["blob_sha256"])


def downgrade() -> None:
    newer = (
        "SELECT (SELECT count(*) FROM models WHERE state = 'empty') + (SELECT count(*) FROM jobs WHERE kind = 'diff') "
        "+ (SELECT count(*) FROM patches WHERE revision = 0)"
    )
    if op.get_bind().scalar(sa.text(newer)):
        raise RuntimeError(
            "There are models without a base, or pushes of the Hub's tools; the older program has neither."
        )
    op.drop_table("pushed_files")
    op.drop_table("pushes")
    constrain("jobs", "kind", "kind IN ('import', 'check', 'compose', 'rebuild', 'conflicts')")
    constrain("models", "state", "state IN ('importing', 'ready')")


def constrain(table: str, column: str, condition: str) -> None:
    """Change what a column may hold; SQLite makes the table anew for it."""
    name = op.f(f"ck_{table}_{column}")
    with op.batch_alter_table(table) as batch:
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, condition)

"""held compositions: whose bytes are on disk, blobs that are composed when they are read, and pinned releases"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "8e1c5d7f0a26"
down_revision: str | None = "c41f7a2e9d06"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

USED = """
    SELECT f.sha256 FROM base_files f JOIN models m ON m.id = f.model_id
    WHERE m.namespace_id = namespaces.id AND NOT (m.by_reference AND f.path LIKE '%.safetensors')
    UNION
    SELECT r.blob_sha256 FROM users u JOIN patches p ON p.author_id = u.id JOIN patch_revisions r ON r.patch_id = p.id
    WHERE u.name = namespaces.name AND r.blob_sha256 IS NOT NULL
    UNION
    SELECT x.sha256 FROM users u JOIN patches p ON p.author_id = u.id JOIN patch_revisions r ON r.patch_id = p.id
    JOIN revision_files x ON x.revision_id = r.id WHERE u.name = namespaces.name
    UNION
    SELECT f.blob_sha256 FROM users u JOIN patches p ON p.author_id = u.id JOIN pushed_files f ON f.patch_id = p.id
    WHERE u.name = namespaces.name AND f.blob_sha256 IS NOT NULL
"""
COMPOSED = """
    UNION
    SELECT f.sha256 FROM users u JOIN compositions c ON c.user_id = u.id
    JOIN composition_files f ON f.composition_id = c.id WHERE u.name = namespaces.name
"""


def upgrade() -> None:
    constrain("state IN ('live', 'doomed', 'remote', 'computed')")
    with op.batch_alter_table("compositions") as batch:
        batch.add_column(sa.Column("held", sa.Boolean(), server_default=sa.true(), nullable=False))
        batch.add_column(sa.Column("used_at", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("reads", sa.Integer(), server_default="0", nullable=False))
        batch.add_column(sa.Column("counted_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE compositions SET used_at = created_at, counted_at = created_at")
    with op.batch_alter_table("compositions") as batch:
        batch.alter_column("used_at", nullable=False)
        batch.alter_column("counted_at", nullable=False)
    op.create_index(
        "ix_compositions_held_used_at",
        "compositions",
        ["used_at"],
        sqlite_where=sa.text("held = 1"),
        postgresql_where=sa.text("held"),
    )
    op.add_column("releases", sa.Column("pinned", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute("ALTER TABLE jobs DROP COLUMN size")
    recount(USED)


def downgrade() -> None:
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM blobs WHERE state = 'computed'")):
        raise RuntimeError(
            "There are compositions whose bytes are not on disk, and the older program cannot compose them when they "
            "are read; delete these first."
        )
    op.add_column("jobs", sa.Column("size", sa.BigInteger(), server_default="0", nullable=False))
    op.execute("ALTER TABLE releases DROP COLUMN pinned")
    op.drop_index("ix_compositions_held_used_at", "compositions")
    with op.batch_alter_table("compositions") as batch:
        for name in ("counted_at", "reads", "used_at", "held"):
            batch.drop_column(name)
    constrain("state IN ('live', 'doomed', 'remote')")
    recount(USED + COMPOSED)


def constrain(condition: str) -> None:
    """Change which states blobs may have; SQLite makes the table anew for it."""
    with op.batch_alter_table("blobs") as batch:
        batch.drop_constraint(op.f("ck_blobs_state"), type_="check")
        batch.create_check_constraint(op.f("ck_blobs_state"), condition)


def recount(used: str) -> None:
    """Write what namespaces use: compositions no longer count."""
    total = f"SELECT coalesce(sum(b.size), 0) FROM blobs b WHERE b.sha256 IN ({used})"  # noqa: S608
    op.execute(f"UPDATE namespaces SET used_bytes = ({total})")  # noqa: S608

"""usage: the bytes that a namespace uses, kept with it"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "e2a94c7b5d10"
down_revision: str | None = "c7e1f40a9d38"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

USED = """
    SELECT f.sha256 FROM base_files f JOIN models m ON m.id = f.model_id
    WHERE m.namespace_id = namespaces.id AND NOT (m.by_reference AND f.path LIKE '%.safetensors')
    UNION
    SELECT r.blob_sha256 FROM users u JOIN patches p ON p.author_id = u.id JOIN patch_revisions r ON r.patch_id = p.id
    WHERE u.name = namespaces.name AND r.blob_sha256 IS NOT NULL
    UNION
    SELECT f.sha256 FROM users u JOIN compositions c ON c.user_id = u.id
    JOIN composition_files f ON f.composition_id = c.id WHERE u.name = namespaces.name
"""


def upgrade() -> None:
    op.add_column("namespaces", sa.Column("used_bytes", sa.BigInteger(), server_default="0", nullable=False))
    total = f"SELECT coalesce(sum(b.size), 0) FROM blobs b WHERE b.sha256 IN ({USED})"  # noqa: S608
    op.execute(f"UPDATE namespaces SET used_bytes = ({total})")  # noqa: S608


def downgrade() -> None:
    op.execute("ALTER TABLE namespaces DROP COLUMN used_bytes")

"""indexes of recent releases, of proposed patches, and of the sizes of models"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "7a41c6e2d9f8"
down_revision: str | None = "c41d7a90e2b6"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    published, proposed = sa.text("state = 'published'"), sa.text("state = 'proposed'")
    op.create_index(
        "ix_releases_published", "releases", ["published_at", "id"], sqlite_where=published, postgresql_where=published
    )
    op.create_index(
        "ix_patches_proposed", "patches", ["created_at", "id"], sqlite_where=proposed, postgresql_where=proposed
    )
    op.create_index("ix_models_parameters", "models", ["parameters"])


def downgrade() -> None:
    op.drop_index("ix_models_parameters", "models")
    op.drop_index("ix_patches_proposed", "patches")
    op.drop_index("ix_releases_published", "releases")

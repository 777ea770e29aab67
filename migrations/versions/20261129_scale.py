"""indexes for what is read on a large database, search by trigrams, downloads of thirty days"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa
from alembic import op

revision: str = "4d0b6a7c91e2"
down_revision: str | None = "8e41c07d2b6a"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

NEW = (
    ("ix_audit_events_model_id_serial", "audit_events", ["model_id", "serial"]),
    ("ix_audit_events_model_id_user_name_serial", "audit_events", ["model_id", "user_name", "serial"]),
    ("ix_audit_events_model_id_action_serial", "audit_events", ["model_id", "action", "serial"]),
    ("ix_audit_events_user_name_serial", "audit_events", ["user_name", "serial"]),
    ("ix_audit_events_action_serial", "audit_events", ["action", "serial"]),
    (
        "ix_builds_recipe_digest_weights_digest",
        "builds",
        ["recipe_digest", "weights_digest", "model_id", "user_id"],
    ),
    ("ix_blobs_state_size", "blobs", ["state", "size"]),
    ("ix_compositions_model_id_created_at", "compositions", ["model_id", "created_at"]),
    ("ix_jobs_key", "jobs", ["key"]),
    ("ix_jobs_kind_created_at", "jobs", ["kind", "created_at"]),
    ("ix_jobs_kind_state", "jobs", ["kind", "state"]),
    ("ix_models_created_at_id", "models", ["created_at", "id"]),
    ("ix_models_downloads_30d_id", "models", ["downloads_30d", "id"]),
    ("ix_models_modified_at_id", "models", ["modified_at", "id"]),
    ("ix_patches_model_id_author_id_state_number", "patches", ["model_id", "author_id", "state", "number"]),
    ("ix_patches_model_id_state_number", "patches", ["model_id", "state", "number"]),
    ("ix_patches_model_id_task_number", "patches", ["model_id", "task", "number"]),
    ("ix_releases_model_id_sort", "releases", ["model_id", "sort"]),
    ("ix_releases_model_id_state_sort", "releases", ["model_id", "state", "sort"]),
)
OLD = (
    ("ix_audit_events_model_id", "audit_events", ["model_id"]),
    ("ix_builds_recipe_digest", "builds", ["recipe_digest"]),
    ("ix_models_created_at", "models", ["created_at"]),
    ("ix_models_modified_at", "models", ["modified_at"]),
    ("ix_patches_model_id_state", "patches", ["model_id", "state"]),
    ("ix_patches_task", "patches", ["task"]),
    ("ix_releases_sort", "releases", ["sort"]),
)
AT_ONCE = 500  # models


def upgrade() -> None:
    # A plain ALTER TABLE, since a batch would drop the table, and with it everything that belongs to a model.
    op.add_column("models", sa.Column("downloads_30d", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "model_trigrams",
        sa.Column("trigram", sa.String(length=3), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_model_trigrams_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("trigram", "model_id", name=op.f("pk_model_trigrams")),
    )
    op.create_index("ix_model_trigrams_model_id", "model_trigrams", ["model_id"])
    for name, table, columns in NEW:
        op.create_index(name, table, columns)
    quarantined = sa.text("quarantined_at IS NOT NULL")
    op.create_index(
        "ix_patches_quarantined_at",
        "patches",
        ["quarantined_at", "id"],
        sqlite_where=quarantined,
        postgresql_where=quarantined,
    )
    for name, table, _ in OLD:
        op.drop_index(name, table)
    fill(op.get_bind())


def fill(connection: sa.Connection) -> None:
    """Add the trigrams of the names that are there, and the downloads of the last thirty days."""
    models = sa.table(
        "models",
        sa.column("id", sa.Uuid()),
        sa.column("namespace_id", sa.Uuid()),
        sa.column("name"),
        sa.column("downloads_30d"),
    )
    spaces = sa.table("namespaces", sa.column("id", sa.Uuid()), sa.column("name"))
    trigrams = sa.table("model_trigrams", sa.column("trigram"), sa.column("model_id", sa.Uuid()))
    counts = sa.table(
        "model_downloads", sa.column("model_id", sa.Uuid()), sa.column("day", sa.Date()), sa.column("count")
    )
    named = sa.select(models.c.id, spaces.c.name + "/" + models.c.name).join_from(
        models, spaces, spaces.c.id == models.c.namespace_id
    )
    rows = iter(connection.execute(named).all())
    while chunk := list(islice(rows, AT_ONCE)):
        connection.execute(sa.insert(trigrams), list(trigrams_of(chunk)))
    since = datetime.now(UTC).date() - timedelta(days=30)
    total = sa.select(sa.func.sum(counts.c.count)).where(counts.c.model_id == models.c.id, counts.c.day > since)
    connection.execute(sa.update(models).values(downloads_30d=sa.func.coalesce(total.scalar_subquery(), 0)))


def trigrams_of(named: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of some models."""
    for key, name in named:
        for trigram in sorted({name[start : start + 3] for start in range(len(name) - 2)}):
            yield {"trigram": trigram, "model_id": key}


def downgrade() -> None:
    for name, table, columns in OLD:
        op.create_index(name, table, columns)
    op.drop_index("ix_patches_quarantined_at", "patches")
    for name, table, _ in reversed(NEW):
        op.drop_index(name, table)
    op.drop_table("model_trigrams")
    op.execute("ALTER TABLE models DROP COLUMN downloads_30d")

"""people: display names, invitations, identities at providers, sessions, logins by a code, publishers, news"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "5b0e93f7c1a4"
down_revision: str | None = "d27b41f09e6c"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.add_column("users", sa.Column("display_name", sa.String(100), nullable=False, server_default=""))
    op.create_table(
        "invitations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("secret_hash", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("namespace_id", sa.Uuid(), nullable=True),
        sa.Column("role", sa.String(16), nullable=True),
        sa.Column("label", sa.String(100), nullable=False),
        sa.Column("asked_name", sa.String(96), nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("used_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('asked', 'open', 'used')", name=op.f("ck_invitations_state")),
        sa.CheckConstraint(
            "role IN ('contributor', 'reviewer', 'maintainer', 'owner')", name=op.f("ck_invitations_role")
        ),
        sa.CheckConstraint(
            "(namespace_id IS NULL AND role IS NULL) OR (namespace_id IS NOT NULL AND role IS NOT NULL)",
            name=op.f("ck_invitations_place"),
        ),
        sa.ForeignKeyConstraint(
            ["namespace_id"], ["namespaces.id"], name=op.f("fk_invitations_namespace_id_namespaces"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_invitations_created_by_id_users"), ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["used_by_id"], ["users.id"], name=op.f("fk_invitations_used_by_id_users"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("secret_hash", name=op.f("uq_invitations_secret_hash")),
    )
    op.create_index("ix_invitations_state_created_at_id", "invitations", ["state", "created_at", "id"])
    op.create_index("ix_invitations_namespace_id_state", "invitations", ["namespace_id", "state"])
    for column in ("created_by_id", "used_by_id"):
        op.create_index(op.f(f"ix_invitations_{column}"), "invitations", [column])
    op.add_column("users", sa.Column("is_program", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("users", sa.Column("program_of_id", sa.Uuid(), nullable=True))
    op.add_column("pushes", sa.Column("origin", sa.JSON(), nullable=True))
    op.add_column("patch_revisions", sa.Column("origin", sa.JSON(), nullable=True))
    op.create_table(
        "publishers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("issuer", sa.String(500), nullable=False),
        sa.Column("claims", sa.JSON(), nullable=False),
        sa.Column("pinned", sa.JSON(), nullable=False),
        sa.Column("created_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('github', 'gitlab', 'oidc')", name=op.f("ck_publishers_kind")),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_publishers_model_id_models"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_publishers_user_id_users"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["created_by_id"], ["users.id"], name=op.f("fk_publishers_created_by_id_users"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publishers")),
    )
    op.create_index("ix_publishers_model_id_issuer", "publishers", ["model_id", "issuer"])
    for column in ("user_id", "created_by_id"):
        op.create_index(op.f(f"ix_publishers_{column}"), "publishers", [column])
    op.create_table(
        "used_identities",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_used_identities")),
    )
    op.create_index(op.f("ix_used_identities_expires_at"), "used_identities", ["expires_at"])
    op.add_column("users", sa.Column("vouched_until", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("tokens") as batch:
        batch.add_column(sa.Column("kind", sa.String(16), nullable=False, server_default="personal"))
        batch.add_column(sa.Column("publisher_id", sa.Uuid(), nullable=True))
        batch.add_column(sa.Column("origin", sa.JSON(), nullable=True))
        batch.create_foreign_key(
            op.f("fk_tokens_publisher_id_publishers"), "publishers", ["publisher_id"], ["id"], ondelete="CASCADE"
        )
        batch.create_index(op.f("ix_tokens_publisher_id"), ["publisher_id"])
        batch.create_index("ix_tokens_kind_expires_at", ["kind", "expires_at"])
        batch.create_check_constraint(op.f("ck_tokens_kind"), "kind IN ('personal', 'session', 'publisher')")
    op.add_column("sign_ins", sa.Column("agent", sa.String(200), nullable=False, server_default=""))
    op.create_table(
        "identities",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("issuer", sa.String(500), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("joined", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_identities_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identities")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_identities_issuer_subject")),
    )
    op.create_index(op.f("ix_identities_user_id"), "identities", ["user_id"])
    op.create_table(
        "device_logins",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("device_hash", sa.String(64), nullable=False),
        sa.Column("code_hash", sa.String(64), nullable=False),
        sa.Column("label", sa.String(100), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=True),
        sa.Column("token_ends", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'approved', 'denied')", name=op.f("ck_device_logins_state")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_device_logins_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_device_logins")),
        sa.UniqueConstraint("device_hash", name=op.f("uq_device_logins_device_hash")),
        sa.UniqueConstraint("code_hash", name=op.f("uq_device_logins_code_hash")),
    )
    for column in ("user_id", "expires_at"):
        op.create_index(op.f(f"ix_device_logins_{column}"), "device_logins", [column])
    op.create_table(
        "mentions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("patch_id", sa.Uuid(), nullable=False),
        sa.Column("by_id", sa.Uuid(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_mentions_user_id_users"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["patch_id"], ["patches.id"], name=op.f("fk_mentions_patch_id_patches"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["by_id"], ["users.id"], name=op.f("fk_mentions_by_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_mentions")),
        sa.UniqueConstraint("user_id", "patch_id", name=op.f("uq_mentions_user_id_patch_id")),
    )
    op.create_index("ix_mentions_user_id_seen_at", "mentions", ["user_id", "seen", "at"])
    for column in ("patch_id", "by_id"):
        op.create_index(op.f(f"ix_mentions_{column}"), "mentions", [column])
    op.create_table(
        "watches",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("seen_serial", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_watches_user_id_users"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_watches_model_id_models"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("user_id", "model_id", name=op.f("pk_watches")),
    )
    op.create_index(op.f("ix_watches_model_id"), "watches", ["model_id"])
    op.create_index("ix_patches_author_id_created_at_id", "patches", ["author_id", "created_at", "id"])
    op.drop_index("ix_patches_author_id", table_name="patches")


def downgrade() -> None:
    op.create_index("ix_patches_author_id", "patches", ["author_id"])
    op.drop_index("ix_patches_author_id_created_at_id", table_name="patches")
    for table in ("watches", "mentions", "device_logins", "identities", "invitations"):
        op.drop_table(table)
    op.execute("DELETE FROM sign_ins WHERE token_id IN (SELECT id FROM tokens WHERE kind <> 'personal')")
    op.execute("DELETE FROM tokens WHERE kind <> 'personal'")  # the older program would show them as tokens
    op.drop_column("sign_ins", "agent")
    with op.batch_alter_table("tokens") as batch:
        batch.drop_constraint(op.f("ck_tokens_kind"), type_="check")
        batch.drop_index(op.f("ix_tokens_publisher_id"))
        batch.drop_index("ix_tokens_kind_expires_at")
        batch.drop_constraint(op.f("fk_tokens_publisher_id_publishers"), type_="foreignkey")
        for column in ("kind", "publisher_id", "origin"):
            batch.drop_column(column)
    for table in ("used_identities", "publishers"):
        op.drop_table(table)
    for table in ("patch_revisions", "pushes"):
        op.drop_column(table, "origin")
    # The older program does not know who is kept out until a provider lets them in again.
    op.execute(
        "UPDATE tokens SET revoked_at = CURRENT_TIMESTAMP WHERE revoked_at IS NULL AND user_id IN "
        "(SELECT id FROM users WHERE vouched_until <= CURRENT_TIMESTAMP)"
    )
    for column in ("vouched_until", "display_name", "is_program", "program_of_id"):
        op.drop_column("users", column)

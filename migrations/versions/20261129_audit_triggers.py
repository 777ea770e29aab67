"""an audit log that only grows"""

from collections.abc import Sequence

from alembic import op

revision: str = "c7e1f40a9d38"
down_revision: str | None = "b5d20c9e71f4"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

WORDS = "the audit log only grows"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for action in ("update", "delete"):
            op.execute(
                f"CREATE TRIGGER audit_events_{action} BEFORE {action.upper()} ON audit_events "
                f"BEGIN SELECT RAISE(ABORT, '{WORDS}'); END"
            )
        op.execute(  # INSERT OR REPLACE deletes without a trigger
            "CREATE TRIGGER audit_events_insert BEFORE INSERT ON audit_events "
            "WHEN EXISTS (SELECT 1 FROM audit_events WHERE serial = NEW.serial) "
            "BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{WORDS}'; END $$"
    )
    for action in ("update", "delete", "truncate"):
        op.execute(
            f"CREATE TRIGGER audit_events_{action} BEFORE {action.upper()} ON audit_events "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"
        )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for action in ("update", "delete", "insert"):
            op.execute(f"DROP TRIGGER audit_events_{action}")
        return
    for action in ("update", "delete", "truncate"):
        op.execute(f"DROP TRIGGER audit_events_{action} ON audit_events")
    op.execute("DROP FUNCTION refuse_audit_change()")

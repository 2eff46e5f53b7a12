"""The audit in the order of time for each of its filters, and numbers that are never given twice."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

RARE_OUTCOME = sa.text("outcome <> 'ok'")
RARE_VERB = sa.text("verb NOT IN ('capabilities', 'get', 'list', 'search')")
INDEXES = (("at", None), ("grant_id", None), ("peer", None), ("outcome", RARE_OUTCOME), ("verb", RARE_VERB))


def upgrade() -> None:
    for column in ("at", "grant_id"):
        op.drop_index(f"ix_audit_events_{column}", table_name="audit_events")
    _numbered(autoincrement=True)
    for column, rare in INDEXES:
        columns = ["at", "id"] if column == "at" else [column, "at", "id"]
        name = f"ix_audit_events_{'_'.join(columns)}"
        op.create_index(name, "audit_events", columns, unique=False, sqlite_where=rare, postgresql_where=rare)


def downgrade() -> None:
    for column, _ in reversed(INDEXES):
        name = "ix_audit_events_at_id" if column == "at" else f"ix_audit_events_{column}_at_id"
        op.drop_index(name, table_name="audit_events")
    _numbered(autoincrement=False)
    for column in ("at", "grant_id"):
        op.create_index(f"ix_audit_events_{column}", "audit_events", [column], unique=False)


def _numbered(*, autoincrement: bool) -> None:
    """Switch AUTOINCREMENT. Without AUTOINCREMENT, SQLite reuses the ids of deleted newest rows."""
    if op.get_bind().dialect.name == "sqlite":
        options = {"sqlite_autoincrement": autoincrement}
        with op.batch_alter_table("audit_events", recreate="always", table_kwargs=options):
            pass

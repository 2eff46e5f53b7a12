"""The first schema: identity, grants, certificates, tokens, peers, audit, and the embedded provider's rows."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SQLITE_SEARCH = (
    "CREATE VIRTUAL TABLE rows_fts USING fts5(text, content='rows', content_rowid='seq', tokenize='unicode61')",
    (
        "CREATE TRIGGER rows_fts_insert AFTER INSERT ON rows BEGIN "
        "INSERT INTO rows_fts(rowid, text) VALUES (new.seq, new.text); END"
    ),
    (
        "CREATE TRIGGER rows_fts_delete AFTER DELETE ON rows BEGIN "
        "INSERT INTO rows_fts(rows_fts, rowid, text) VALUES ('delete', old.seq, old.text); END"
    ),
    (
        "CREATE TRIGGER rows_fts_update AFTER UPDATE ON rows BEGIN "
        "INSERT INTO rows_fts(rows_fts, rowid, text) VALUES ('delete', old.seq, old.text); "
        "INSERT INTO rows_fts(rowid, text) VALUES (new.seq, new.text); END"
    ),
)
POSTGRES_SEARCH = (
    "ALTER TABLE rows ADD COLUMN words tsvector GENERATED ALWAYS AS (to_tsvector('simple', text)) STORED",
    "CREATE INDEX ix_rows_words ON rows USING gin (words)",
)


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("grant_id", sa.String(length=36), nullable=True),
        sa.Column("peer", sa.Text(), server_default="", nullable=False),
        sa.Column("subject", sa.Text(), server_default="", nullable=False),
        sa.Column("verb", sa.String(length=32), nullable=False),
        sa.Column("resource", sa.Text(), server_default="", nullable=False),
        sa.Column("query_hash", sa.String(length=64), server_default="", nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("latency_ms", sa.Float(), server_default="0", nullable=False),
        sa.Column("trace_id", sa.String(length=32), server_default="", nullable=False),
        sa.Column("source", sa.Text(), server_default="", nullable=False),
        sa.Column("count", sa.Integer(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_events"),
    )
    op.create_index("ix_audit_events_at", "audit_events", ["at"], unique=False)
    op.create_index("ix_audit_events_grant_id", "audit_events", ["grant_id"], unique=False)
    op.create_table(
        "gateway_identity",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("ca_certificate", sa.Text(), nullable=False),
        sa.Column("ca_key_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("server_certificate", sa.Text(), nullable=False),
        sa.Column("server_key_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_gateway_identity"),
    )
    op.create_table(
        "grants",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_grants"),
    )
    op.create_table(
        "peers",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("grant_id", sa.String(length=36), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("key_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("trust_bundle", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_peers"),
        sa.UniqueConstraint("grant_id", name="uq_peers_grant_id"),
        sa.UniqueConstraint("name", "user", name="uq_peers_name_user"),
    )
    op.create_table(
        "pending_enrollments",
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("key_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("secret_hash", name="pk_pending_enrollments"),
    )
    op.create_table("teams", sa.Column("id", sa.Text(), nullable=False), sa.PrimaryKeyConstraint("id", name="pk_teams"))
    op.create_table("users", sa.Column("id", sa.Text(), nullable=False), sa.PrimaryKeyConstraint("id", name="pk_users"))
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=40), nullable=False),
        sa.Column("grant_id", sa.String(length=36), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("pem", sa.Text(), nullable=False),
        sa.Column("csr_hash", sa.String(length=64), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("accepted_until", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name="fk_certificates_grant_id"),
        sa.PrimaryKeyConstraint("serial", name="pk_certificates"),
    )
    op.create_index("ix_certificates_grant_id", "certificates", ["grant_id"], unique=False)
    op.create_table(
        "enrollment_tokens",
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("grant_id", sa.String(length=36), nullable=False),
        sa.Column("confirm", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_at", sa.BigInteger(), nullable=True),
        sa.Column("claimed_key_hash", sa.String(length=64), nullable=True),
        sa.Column("serial", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name="fk_enrollment_tokens_grant_id"),
        sa.PrimaryKeyConstraint("secret_hash", name="pk_enrollment_tokens"),
    )
    op.create_index("ix_enrollment_tokens_grant_id", "enrollment_tokens", ["grant_id"], unique=False)
    op.create_table(
        "memberships",
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name="fk_memberships_team_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_memberships_user_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "team_id", name="pk_memberships"),
    )
    op.create_index("ix_memberships_team_id", "memberships", ["team_id"], unique=False)
    op.create_table(
        "rows",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("id", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("team", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["owner"], ["users.id"], name="fk_rows_owner"),
        sa.PrimaryKeyConstraint("seq", name="pk_rows"),
        sa.UniqueConstraint("resource", "id", name="uq_rows_resource_id"),
    )
    newest: sa.ColumnClause[object] = sa.literal_column("created_at DESC")
    op.create_index("ix_rows_owner", "rows", ["resource", "owner", newest, "id", "team"], unique=False)
    op.create_index("ix_rows_team", "rows", ["resource", "team", newest, "id"], unique=False)
    for statement in SQLITE_SEARCH if op.get_bind().dialect.name == "sqlite" else POSTGRES_SEARCH:
        op.execute(statement)


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE rows_fts")
    op.drop_index("ix_rows_team", table_name="rows")
    op.drop_index("ix_rows_owner", table_name="rows")
    op.drop_table("rows")
    op.drop_index("ix_memberships_team_id", table_name="memberships")
    op.drop_table("memberships")
    op.drop_index("ix_enrollment_tokens_grant_id", table_name="enrollment_tokens")
    op.drop_table("enrollment_tokens")
    op.drop_index("ix_certificates_grant_id", table_name="certificates")
    op.drop_table("certificates")
    op.drop_table("users")
    op.drop_table("teams")
    op.drop_table("pending_enrollments")
    op.drop_table("peers")
    op.drop_table("grants")
    op.drop_table("gateway_identity")
    op.drop_index("ix_audit_events_grant_id", table_name="audit_events")
    op.drop_index("ix_audit_events_at", table_name="audit_events")
    op.drop_table("audit_events")

"""Adds receipts of revocations, lease bounds, and successors of certificates in use."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "revocations",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("grant_id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("effective_at", sa.BigInteger(), nullable=True),
        sa.Column("instances", sa.Text(), server_default="[]", nullable=False),
        sa.ForeignKeyConstraint(["grant_id"], ["grants.id"], name="fk_revocations_grant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_revocations"),
    )
    op.create_index("ix_revocations_grant_id", "revocations", ["grant_id"], unique=False)
    op.create_table(
        "lease_bound",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("max_lease_ms", sa.Integer(), nullable=False),
        sa.Column("served_from", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_lease_bound"),
    )
    op.add_column("certificates", sa.Column("number", sa.Integer(), server_default="0", nullable=False))
    op.add_column("certificates", sa.Column("after_expiry", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("peers", sa.Column("enrollment_endpoint", sa.Text(), server_default="", nullable=False))
    op.add_column("peers", sa.Column("pending_key_sealed", sa.LargeBinary(), nullable=True))
    op.add_column("peers", sa.Column("pending_csr", sa.LargeBinary(), nullable=True))
    op.add_column("peers", sa.Column("version", sa.Integer(), server_default="0", nullable=False))
    op.add_column("peers", sa.Column("revoked_at", sa.BigInteger(), nullable=True))
    op.add_column("peers", sa.Column("revoked_reason", sa.Text(), server_default="", nullable=False))


def downgrade() -> None:
    for column in (
        "revoked_reason",
        "revoked_at",
        "version",
        "pending_csr",
        "pending_key_sealed",
        "enrollment_endpoint",
    ):
        op.drop_column("peers", column)
    for column in ("after_expiry", "number"):
        op.drop_column("certificates", column)
    op.drop_table("lease_bound")
    op.drop_index("ix_revocations_grant_id", table_name="revocations")
    op.drop_table("revocations")

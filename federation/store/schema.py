"""The tables of a gateway's database. Instants are Unix microseconds; every key at rest is sealed.

The migrations are the authority for what a database holds; a test compares them with these tables. Options that one
database alone knows (SQLite's AUTOINCREMENT, the conditions of partial indexes) stand in the migrations only, because
a table that names a dialect imports it, and `sqlalchemy.dialects.postgresql` imports every driver for PostgreSQL.
"""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
)

__all__ = [
    "METADATA",
    "audit_events",
    "certificates",
    "enrollment_tokens",
    "gateway_identity",
    "grants",
    "lease_bound",
    "memberships",
    "peers",
    "pending_enrollments",
    "revocations",
    "rows",
    "teams",
    "users",
]

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)
SERIAL: Final = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit key that the database counts up; SQLite does so only for a column of type INTEGER."""
BYTEWISE: Final = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that sorts by code point, as Python and SQLite sort it, whatever the database's locale."""

gateway_identity = Table(
    "gateway_identity",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("ca_certificate", Text, nullable=False),
    Column("ca_key_sealed", LargeBinary, nullable=False),
    Column("server_certificate", Text, nullable=False),
    Column("server_key_sealed", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
"""One row, id 1: the gateway's own authority and server certificate (PEM)."""

grants = Table(
    "grants",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("peer", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("revoked_reason", Text, nullable=False, server_default=""),
    Column("last_used_at", BigInteger),
)
"""`status`: pending, active or revoked. Expiry is a matter of `expires_at`, not of a status."""

certificates = Table(
    "certificates",
    METADATA,
    Column("serial", String(40), primary_key=True),
    Column("grant_id", String(36), ForeignKey("grants.id"), nullable=False, index=True),
    Column("fingerprint", String(64), nullable=False),
    Column("pem", Text, nullable=False),
    Column("csr_hash", String(64), nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("accepted_until", BigInteger, nullable=False),
    Column("number", Integer, nullable=False, server_default="0"),
    Column("after_expiry", Boolean, nullable=False, server_default=false()),
)
"""Client certificates issued under a grant. `accepted_until` is `not_after`, or sooner once a successor is in use.

`number` counts a grant's certificates in the order of issue. `after_expiry` marks one that was issued although its
predecessor had expired, on the word of the old key.
"""

enrollment_tokens = Table(
    "enrollment_tokens",
    METADATA,
    Column("secret_hash", String(64), primary_key=True),
    Column("grant_id", String(36), ForeignKey("grants.id"), nullable=False, index=True),
    Column("confirm", Boolean, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("claimed_at", BigInteger),
    Column("claimed_key_hash", String(64)),
    Column("serial", String(40)),
)
"""A token is claimed by one key, before a certificate is issued; the same key may ask again."""

peers = Table(
    "peers",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("gateway", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("grant_id", String(36), nullable=False, unique=True),
    Column("subject", Text, nullable=False),
    Column("certificate", Text, nullable=False),
    Column("key_sealed", LargeBinary, nullable=False),
    Column("trust_bundle", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("enrollment_endpoint", Text, nullable=False, server_default=""),
    Column("pending_key_sealed", LargeBinary),
    Column("pending_csr", LargeBinary),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("revoked_at", BigInteger),
    Column("revoked_reason", Text, nullable=False, server_default=""),
    UniqueConstraint("name", "user"),
)
"""Enrollments of this gateway at others. `gateway` is the DNS name that the remote server certificate must carry.

The pending key and request are those of a renewal whose answer has not been stored. `version` rises with each change
of a row, so that other processes see cheaply that they must read it again. `revoked_at` is when the peer was heard to
have revoked the grant.
"""

pending_enrollments = Table(
    "pending_enrollments",
    METADATA,
    Column("secret_hash", String(64), primary_key=True),
    Column("key_sealed", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
"""The key made for a token, kept until the answer arrived, so that a lost answer can be asked for again."""

revocations = Table(
    "revocations",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("grant_id", String(36), ForeignKey("grants.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("begun_at", BigInteger, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("effective_at", BigInteger),
    Column("instances", Text, nullable=False, server_default="[]"),
)
"""What was taken back, by revoking a grant or by narrowing its scope. Unfinished while `effective_at` is null."""

lease_bound = Table(
    "lease_bound",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("max_lease_ms", Integer, nullable=False),
    Column("served_from", Text, nullable=False),
)
"""One row, id 1: the longest lease that a peer can still hold, also after a restart with a shorter one, and the host
and directory of the process that served last.
"""

COMMON_OUTCOME: Final = "ok"
COMMON_VERBS: Final = ("capabilities", "get", "list", "search")
RARE_OUTCOME: Final = text("outcome <> 'ok'")
RARE_VERB: Final = text("verb NOT IN ('capabilities', 'get', 'list', 'search')")
"""Conditions of two partial indexes: they hold few events, so a read's event costs neither index a write."""

audit_events = Table(
    "audit_events",
    METADATA,
    Column("id", SERIAL, primary_key=True),
    Column("at", BigInteger, nullable=False),
    Column("grant_id", String(36)),
    Column("peer", Text, nullable=False, server_default=""),
    Column("subject", Text, nullable=False, server_default=""),
    Column("verb", String(32), nullable=False),
    Column("resource", Text, nullable=False, server_default=""),
    Column("query_hash", String(64), nullable=False, server_default=""),
    Column("outcome", String(16), nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("bytes_out", BigInteger, nullable=False, server_default="0"),
    Column("latency_ms", Float, nullable=False, server_default="0"),
    Column("trace_id", String(32), nullable=False, server_default=""),
    Column("source", Text, nullable=False, server_default=""),
    Column("count", Integer, nullable=False, server_default="1"),
)
Index(None, audit_events.c.at, audit_events.c.id)
Index(None, audit_events.c.grant_id, audit_events.c.at, audit_events.c.id)
Index(None, audit_events.c.peer, audit_events.c.at, audit_events.c.id)
Index(None, audit_events.c.outcome, audit_events.c.at, audit_events.c.id)
Index(None, audit_events.c.verb, audit_events.c.at, audit_events.c.id)
"""Who read what; never a body. A call refused before its grant was known has no grant id, but a source.

A number is never given twice, also where the newest rows were moved away: who follows the trail counts on it. Each
index holds the order of time, in which the audit is listed.
"""

users = Table("users", METADATA, Column("id", Text, primary_key=True))

teams = Table("teams", METADATA, Column("id", Text, primary_key=True))

memberships = Table(
    "memberships",
    METADATA,
    Column("user_id", Text, ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("team_id", Text, ForeignKey("teams.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_memberships_team_id", "team_id"),
)

rows = Table(
    "rows",
    METADATA,
    Column("seq", SERIAL, primary_key=True),
    Column("resource", Text, nullable=False),
    Column("id", BYTEWISE, nullable=False),
    Column("owner", Text, ForeignKey("users.id"), nullable=False),
    Column("team", Text, nullable=False, server_default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("data", Text, nullable=False),
    Column("text", Text, nullable=False),
    UniqueConstraint("resource", "id"),
)
Index("ix_rows_owner", rows.c.resource, rows.c.owner, rows.c.created_at.desc(), rows.c.id, rows.c.team)
Index("ix_rows_team", rows.c.resource, rows.c.team, rows.c.created_at.desc(), rows.c.id)
"""The embedded provider's rows. `data` is JSON text as given, `text` its coded words for full-text search.

Each index holds the order of a list within one owner's or one team's rows, which is how a subject's rights read it.

On SQLite the FTS5 table `rows_fts` follows `text` by triggers; on PostgreSQL the generated column `words`
(`tsvector`) does.
"""

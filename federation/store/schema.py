"""The tables of a gateway's database. Instants are Unix microseconds; private keys are sealed.

The migrations define the schema; a test compares them with these tables. Options of one dialect (SQLite's
AUTOINCREMENT, the conditions of partial indexes) are only in the migrations: a table that uses a dialect imports it,
and `sqlalchemy.dialects.postgresql` imports every PostgreSQL driver.
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

METADATA: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)
SERIAL: Final = BigInteger().with_variant(Integer, "sqlite")
"""A 64-bit auto-increment key; SQLite requires the type INTEGER for it."""
BYTEWISE: Final = Text().with_variant(Text(collation="C"), "postgresql")
"""Text sorted by code point, as in Python and SQLite, independent of the database's locale."""

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
"""One row (id 1): the gateway's certificate authority and server certificate (PEM)."""

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
"""`status`: pending, active or revoked. Expiry follows from `expires_at`."""

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
"""Client certificates issued under a grant. `accepted_until` is `not_after`, or earlier once a successor is in use.

`number` counts a grant's certificates in the order of issue. `after_expiry` marks a certificate that was issued after
its predecessor had expired, on proof of the old key.
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
"""Enrollment tokens. One key claims a token before a certificate is issued; the same key may repeat the request."""

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
"""Enrollments of this gateway at others. `gateway` is the DNS name that the remote server certificate must contain.

The pending key and request belong to a renewal whose certificate is not stored yet. `version` rises with each change of
a row, so that other processes detect changes cheaply. `revoked_at` is when this gateway learned of the revocation.
"""

pending_enrollments = Table(
    "pending_enrollments",
    METADATA,
    Column("secret_hash", String(64), primary_key=True),
    Column("key_sealed", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
"""The key for an enrollment, stored until the response arrives, so that the request can be repeated."""

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
"""Revocations and scope reductions of grants. Unfinished while `effective_at` is null."""

lease_bound = Table(
    "lease_bound",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("max_lease_ms", Integer, nullable=False),
    Column("served_from", Text, nullable=False),
)
"""One row (id 1): the longest lease that a peer can still hold, also after a restart with a shorter `max_lease_s`, and
host and directory of the last serving process.
"""

COMMON_OUTCOME: Final = "ok"
COMMON_VERBS: Final = ("capabilities", "get", "list", "search")
RARE_OUTCOME: Final = text("outcome <> 'ok'")
RARE_VERB: Final = text("verb NOT IN ('capabilities', 'get', 'list', 'search')")
"""Conditions of two partial indexes, which exclude ordinary reads: writing their events updates neither index."""

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
"""Audit events, without request or answer bodies. A call refused before its grant was known has no grant id but a
source.

Ids are never reused, even after the newest rows were archived: readers that follow the trail depend on it. Each index
ends with the time order, in which the audit is listed.
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
"""The embedded provider's rows. `data` is JSON text as given, `text` its encoded terms for full-text search.

Each index has the order of a list within the rows of one owner or one team, as the access rules read them.

On SQLite, triggers copy `text` to the FTS5 table `rows_fts`; on PostgreSQL, the generated column `words` (`tsvector`)
is derived from it.
"""

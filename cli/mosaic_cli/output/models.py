# ruff: noqa: D101 - the keys describe the object
"""The JSON objects that `--json` and the MCP tools print. A later version may add keys; existing keys never change.

Each class declares one object. `fill` builds the object from an admin message, and `mosaic_cli.output.outputs` builds
the JSON Schemas in `docs/schemas` from the same declarations. A string in `Annotated` is the schema's description, and
`Keywords` are other schema keywords.
"""

from __future__ import annotations  # annotations are evaluated when an output needs them, not at import

from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from google.protobuf.message import Message

Shape = dict[str, Any]


class Model:
    """A JSON object. Each annotation declares a key, which is always present; `| None` allows null as its value."""


class Keywords:
    """JSON Schema keywords of an annotated type. A type with a `name` gets a definition of its own."""

    def __init__(self, name: str = "", /, **keywords: Any) -> None:
        self.name, self.keywords = name, keywords


class _Field(NamedTuple):
    """One key of a model, as `fill` reads it."""

    key: str
    nested: type[Model] | None
    many: bool
    nullable: bool


def fill(model: type[Model], message: Message, **overrides: Any) -> Shape:
    """Return the JSON object of a message. Each key comes from `overrides`, else from the field of the same name."""
    fields = _FIELDS.get(model) or _FIELDS.setdefault(model, _fields(model))
    return {field.key: overrides[field.key] if field.key in overrides else _read(message, field) for field in fields}


_FIELDS: Final[dict[type[Model], tuple[_Field, ...]]] = {}


def _fields(model: type[Model]) -> tuple[_Field, ...]:
    fields = []
    for key, hint in get_type_hints(model).items():
        nullable = get_origin(hint) in {Union, UnionType}
        inner = next(one for one in get_args(hint) if one is not NoneType) if nullable else hint
        many = get_origin(inner) is list
        item = get_args(inner)[0] if many else inner
        nested = item if isinstance(item, type) and issubclass(item, Model) else None
        fields.append(_Field(key, nested, many, nullable))
    return tuple(fields)


def _read(message: Message, field: _Field) -> Any:
    value = getattr(message, field.key)
    if field.many:
        return [fill(field.nested, one) for one in value] if field.nested else list(value)
    if field.nested:
        return None if field.nullable and not message.HasField(field.key) else fill(field.nested, value)
    if isinstance(value, Timestamp):
        return instant(message, field.key)
    if type(value) is int and message.DESCRIPTOR.fields_by_name[field.key].enum_type:
        return enum_name(message, field.key)
    return (value or None) if field.nullable else value


def instant(message: Message, field: str) -> str | None:
    """Return a timestamp field as RFC 3339 text in UTC with milliseconds, or `None` where it is absent."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    try:
        return stamp.ToDatetime().isoformat(timespec="milliseconds") + "Z"
    except (OverflowError, ValueError):  # a peer's row may hold any number
        return None


def enum_name(message: Message, field: str) -> str:
    """Return the name of an enum field's value in lower case, without the prefix of the protobuf style guide."""
    kind = message.DESCRIPTOR.fields_by_name[field].enum_type
    assert kind is not None  # noqa: S101 - callers name enum fields
    prefix = "".join(f"_{c}" if c.isupper() else c for c in kind.name).strip("_").upper() + "_"
    value = kind.values_by_number.get(getattr(message, field))
    return value.name.removeprefix(prefix).lower() if value else "unspecified"


_TIME: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$"
Instant = Annotated[str, Keywords("instant", pattern=_TIME, description="RFC 3339, UTC, milliseconds.")]
Uuid = Annotated[str, Keywords("uuid", pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Source = Annotated[str, Keywords("source", pattern="^(local|federated:.+)$", description="local or federated:<peer>.")]
Count = Annotated[int, Keywords(minimum=0)]
Amount = Annotated[float, Keywords(minimum=0)]
PeerName = Annotated[str, "The local name of the peer."]
PeerState = Literal["active", "offline", "degraded", "revoked", "expired", "unspecified"]
SourceState = Literal["ok", "cached", "offline", "denied", "rate_limited", "skipped", "failed"]
Link = Literal["dns", "tcp", "tls", "certificate", "grant", "verb"]
NextStep = Annotated[str | None, "The action for the operator."]


class Certificate(Model):
    serial: str
    not_after: Instant | None
    not_before: Instant | None
    fingerprint: Annotated[str, "SHA-256 of the DER form, hexadecimal."]


class CertificateLife(Model):
    serial: str
    not_after: Instant | None
    expires_in_s: Annotated[int, "Negative after expiry."]
    renews_at: Instant | None


class CertificateWhole(CertificateLife, Certificate): ...


class Failure(Model):
    at: Instant | None
    code: Annotated[str, "The name of a gRPC code."]
    reason: str | None
    message: str


class ExplainedFailure(Failure):
    meaning: Annotated[str | None, "An explanation of the failure."]


class Circuit(Model):
    state: Literal["closed", "open", "half_open"]
    consecutive_failures: Count
    opened_at: Instant | None
    retry_at: Instant | None


class Cache(Model):
    entries: Count
    bytes: Count
    hits: Count
    misses: Count


class Watch(Model):
    state: Literal["armed", "connecting", "off"]
    since: Instant | None


class Revocation(Model):
    """The peer's revocation of the grant: when this gateway received it, and the peer's reason."""

    at: Instant | None
    reason: str | None


class Renewal(Model):
    consecutive_failures: Count
    last_failure: Failure | None
    next_at: Annotated[Instant | None, "null: no renewal is planned."]


class Latency(Model):
    """Percentiles of the last 512 answers that used the network."""

    p50: Amount
    p99: Amount


class Peer(Model):
    name: PeerName
    endpoint: Annotated[str, "host:port of its federation service."]
    user: Annotated[str, "The local user who is enrolled there."]
    grant_id: Uuid
    state: PeerState
    certificate: CertificateLife
    last_success: Annotated[Instant | None, "null: no success since the gateway started."]
    last_failure: Failure | None
    circuit: Circuit | None
    cache: Cache | None
    watch: Watch
    revocation: Revocation | None
    renewal: Renewal | None
    latency_ms: Latency | None


class StatusPeer(Peer):
    """A peer and the assessment of its health."""

    last_failure: ExplainedFailure | None
    seen_at: Annotated[Instant | None, "When the peer last answered or sent an event."]
    healthy: Annotated[bool | None, "null: the peer has not been seen yet."]
    shown: Annotated[
        Literal["active", "not_seen", "failing", "degraded", "offline", "expired", "revoked"],
        "The state in the table, more detailed than `state`.",
    ]
    why: str | None
    next_step: str | None


class ShownPeer(Peer):
    certificate: CertificateWhole


class EnrolledPeer(Model):
    name: PeerName
    user: str
    endpoint: str
    grant_id: Uuid
    state: PeerState
    certificate: Certificate


class Grant(Model):
    id: Annotated[Uuid | None, "null: a grant of --dry-run, not stored."]
    peer: Annotated[str, "The name of the gateway that may enroll."]
    subject: Annotated[str, "The local user in whose name the peer reads."]
    status: Literal["pending", "active", "revoked", "expired", "unspecified"]
    scope: Annotated[Any, "The scope document as given.", Keywords(type=["object", "string"])]
    created_at: Instant | None
    expires_at: Annotated[Instant | None, "null: never."]
    revoked_at: Instant | None
    revoked_reason: str | None
    certificate: Certificate | None
    last_used: Instant | None
    words: Annotated[list[str], "The scope described in sentences."]
    leases: Annotated[Count, "Caches of the peer that may hold answers now."]
    watches: Count
    requests: Annotated[Count, "Since the gateway started, like denials."]
    denials: Count
    last_denied: Instant | None
    last_denied_reason: str | None


class ResourcePreview(Model):
    """The rows of one resource that a scope opens now."""

    resource: str
    rows: Count
    more: Annotated[bool, "There are more rows than counted."]
    newest_ids: list[str]


class LeaseRelease(Model):
    """The release of one cache of the peer."""

    instance_id: Annotated[
        str | None, "The cache's instance id; null: all caches from before this gateway's last start."
    ]
    how: Literal["acked", "lease_ended", "disconnected", "awaited"]
    at: Instant | None
    until: Annotated[Instant | None, "When the wait for this cache ends at the latest."]
    failed_in_flight: Count


class Receipt(Model):
    grant_id: Uuid
    revoked_at: Annotated[Instant | None, "null: the revocation is not durable yet."]
    effective_at: Annotated[
        Instant | None, "From this instant no cache of the peer can serve it; null: still waiting for a cache."
    ]
    reason: Annotated[str | None, "The operator's reason; for a narrowed scope, what the peer lost."]
    kind: Literal["revoked", "narrowed"]
    failed_in_flight: Count
    instances: list[LeaseRelease]


class UserRemoval(Model):
    """The result of removing a user."""

    user: str
    grants: list[Uuid]
    teams: list[str]
    owned_rows: Count
    from_data: Annotated[bool, "false: an external data provider holds the rows; remove the user there as well."]
    peers: Annotated[list[str], "Peers that are still enrolled for this user."]


class Row(Model):
    id: str
    resource: str
    owner: str
    team: Annotated[str, "Empty: a personal row."]
    created_at: Instant | None
    updated_at: Instant | None
    data: Annotated[Any, "The row's fields; a string if they are no JSON or nest too deep."]
    _source: Source
    _cached: Annotated[bool, "Answered from the cache, without a call to the peer."]
    age_s: Annotated[Amount, "Seconds since the answer was requested from the peer; 0: requested by this query."]


class Hit(Row):
    score: Annotated[float, "In (0, 1]; larger is better."]
    snippet: str


class SourceReport(Model):
    source: Source
    state: SourceState
    reason: str | None
    message: str | None
    next_step: NextStep
    latency_ms: Amount
    rows: Count
    retry_after_s: Annotated[float | None, Keywords(minimum=0)]


class Signal(Model):
    """The start or end of a peer's outage, reported once in a session."""

    kind: Literal["offline", "restored"]
    peer: str
    text: Annotated[str, "The signal as a sentence."]
    reason: str | None
    message: str | None
    next_step: NextStep
    since: Instant | None
    retry_at: Annotated[Instant | None, "When this session queries the peer again automatically."]


class Capabilities(Model):
    resources: list[str]
    excluded_resources: list[str]
    max_rows_per_query: Count
    verbs: list[str]
    gateway: str
    gateway_version: str


class _Tagged(Model):
    _source: Source


class SourceCapabilities(Capabilities, _Tagged): ...


class AuditEvent(Model):
    id: int
    at: Instant
    grant_id: str | None
    peer: str | None
    subject: str | None
    verb: str
    resource: str | None
    query_hash: str | None
    outcome: str
    reason: str | None
    bytes_out: Count
    latency_ms: Amount
    trace_id: Annotated[str | None, Keywords(pattern="^[0-9a-f]{32}$")]
    count: Annotated[Count, "The number of calls; refusals of one kind are counted together."]
    source: Annotated[str | None, "admin, gateway, or the caller's address."]


class Gateway(Model):
    name: str
    version: str
    started_at: Instant
    now: Annotated[Instant, "When the gateway answered."]
    federation_address: str
    enrollment_address: str
    server_certificate: CertificateLife


class Denial(Model):
    at: Instant
    reason: str


class ServedGrant(Model):
    id: Uuid
    peer: Annotated[str, "The name of the gateway that may enroll."]
    subject: Annotated[str, "The local user in whose name the peer reads."]
    status: Literal["pending", "active", "revoked", "expired", "unspecified"]
    expires_at: Annotated[Instant | None, "null: never."]
    watches: Count
    leases: Annotated[Count, "Caches of the peer that may hold answers now."]
    requests: Annotated[Count, "Since the gateway started, like denials."]
    denials: Count
    last_denied: Denial | None
    last_used: Instant | None


class RequestCount(Model):
    verb: str
    outcome: str
    count: Count


class Serving(Model):
    watches: Count
    leases: Count
    requests: list[RequestCount]
    last_request: Instant | None
    audit_dropped: Count


class Outage(Model):
    since: Instant
    message: str


class Step(Model):
    name: Link
    state: Literal["ok", "broken", "not_reached"]
    took_ms: Annotated[float | None, Keywords(minimum=0), "null: not tried."]
    detail: str | None


class BrokenLink(Model):
    """The first broken link."""

    step: Link
    cause: str
    cure: Annotated[str, "The command to run, or the operator to ask."]


class GatewayContact(Model):
    """Whether the local gateway runs. Only the running gateway knows circuit, watch and last failure."""

    running: bool
    detail: Annotated[str | None, "Why the gateway reported nothing."]


class LiveAnswer(Model):
    capabilities: Capabilities | None
    reason: str | None
    error: str | None
    took_ms: Amount


class NewGateway(Model):
    name: str
    directory: Annotated[str, "The absolute path."]


class ImportCounts(Model):
    users: Count
    teams: Count
    members: Count
    rows: Count


class OpenedSource(Model):
    source: Source
    state: SourceState
    reason: str | None
    message: str | None
    next_step: NextStep
    resources: Annotated[list[str] | None, "The readable resources; null if the source did not answer."]
    max_rows_per_query: Count | None
    peer_state: Annotated[PeerState | None, "null for local."]
    last_success: Instant | None
    certificate_ends: Instant | None

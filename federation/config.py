"""The settings of one gateway: `gateway.toml` in its directory, read once and validated.

A setting that the file lacks has the default given here.
"""

import ipaddress
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_type_hints

from federation.errors import Action, ConfigError, Remedy
from federation.suggest import near_matches

CONFIG_FILE: Final = "gateway.toml"
MAX_LEASE_S: Final = 30
MAX_SOCKET_PATH: Final = 107
"""Maximum length of a Unix socket path in bytes: the size of `sun_path` less the terminating NUL."""
_NAME: Final = re.compile(r"(?=.{1,63}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?\Z|[0-9a-fA-F:.]{2,45}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """`[store]`: the database of grants, peers, audit events and the embedded provider's rows."""

    url: str = ""
    """SQLAlchemy URL with an async driver (`postgresql+asyncpg://…`). Empty: SQLite, `gateway.db` in the directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """`[server]`: serving calls of peers."""

    graceful_stop_s: float = 5.0
    """Seconds that running calls may continue after a stop was requested."""
    audit_queue: int = 4_096
    """Maximum number of allowed reads that wait for their audit write. A full queue delays replies, then fails them."""
    max_lease_s: float = 30.0
    """Seconds that a peer may cache an answer, at most 30. A revocation takes effect within 1.1 times this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """`[client]`: calls to peers."""

    deadline_s: float = 2.0
    """Deadline in seconds of a call for which the caller sets none."""
    watch: bool = True
    """Whether a stream from each peer delivers revocations and changes at once. Otherwise leases bound their delay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """`[session]`: requests of a session to several sources at once."""

    peer_budget_s: float = 2.0
    """Seconds that each peer has to answer. A slower peer is reported as offline, and its rows are left out."""
    request_budget_s: float | None = None
    """Seconds for a whole request, this gateway's own data included. Unset: only the budget of each peer applies."""
    announce_restored: bool = True
    """Whether a session also signals, once for each peer, that a peer is available again."""
    warm_concurrency: int = 4
    """Maximum number of concurrent calls with which a session warms the cache."""

    def __post_init__(self) -> None:
        _check_positive(self, "session.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """`[cache]`: the response cache for `list` and `get`."""

    ttl_s: float = 30.0
    """Maximum age of a cached answer in seconds, counted from its request. The peer's lease may shorten it."""
    max_bytes: int = 64 * 1024 * 1024
    """Maximum size of all cached answers; each peer has a fair share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitConfig:
    """`[circuit]`: the circuit breaker of each peer."""

    failure_threshold: int = 5
    """Consecutive failures that open the circuit."""
    cooldown_s: float = 30.0
    """Seconds that the circuit stays open before one probe. Doubles with each failed probe."""
    max_cooldown_s: float = 300.0
    """Maximum cooldown in seconds."""
    jitter: float = 0.1
    """Random variation of a cooldown: 0.1 means up to 10 % longer or shorter."""
    slow_call_s: float | None = None
    """Calls slower than this many seconds count as failures. Unset: slow calls do not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateConfig:
    """`[certificates]`: lifetimes of the certificates and tokens that this gateway issues."""

    client_lifetime_s: int = 86_400
    """Lifetime of a client certificate in seconds, at least 300."""
    server_lifetime_s: int = 31_536_000
    """Lifetime of this gateway's server certificate in seconds, at least 300."""
    token_lifetime_s: int = 900
    """Lifetime of an enrollment token in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """`[audit]`: retention of the audit trail."""

    retention_days: int = 90
    """Days that audit events stay in the database; older ones move to compressed day files in `audit/`. 0: no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """`[telemetry]`: spans, metrics and logs. The standard `OTEL_*` variables configure their export."""

    enabled: bool = True
    """Whether spans and metrics are recorded."""
    hit_spans: bool = True
    """Whether a cache hit records a span."""
    rpc_spans: bool = False
    """Whether `opentelemetry-instrumentation-grpc` adds RPC spans below `federation.request`."""
    log_format: str = "text"
    """Format of log lines: `text` or `json`."""
    prometheus: str = ""
    """host:port of an HTTP endpoint for Prometheus, such as 127.0.0.1:9464; it has no authentication. Empty: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """All settings of the gateway in `directory`."""

    directory: Path
    name: str
    """The gateway's name, a DNS name in lower case, by which peers know it; its certificate contains the name."""
    listen: str = "127.0.0.1:7443"
    """host:port of the federation service (mutual TLS). Port 0 selects a free port."""
    enroll: str = "127.0.0.1:7444"
    """host:port of the enrollment service (server TLS)."""
    advertise: str = ""
    """Host at which peers reach this gateway. Empty: the host of `listen`, or `name` if that is a wildcard."""
    admin_socket: str = "run/admin.sock"
    """Unix socket for the operator's commands, in a directory that only the gateway's user may enter."""
    store: StoreConfig = field(default_factory=StoreConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    client: ClientConfig = field(default_factory=ClientConfig)
    session: SessionConfig = field(default_factory=SessionConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    circuit: CircuitConfig = field(default_factory=CircuitConfig)
    certificates: CertificateConfig = field(default_factory=CertificateConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)

    def __post_init__(self) -> None:
        if not is_gateway_name(self.name):
            raise ConfigError("name", f"{self.name!r} is not a DNS name in lower case, such as work.example")
        for key in ("listen", "enroll"):
            parse_address(getattr(self, key), key)
        if self.advertise and not _HOST.match(self.advertise):
            raise ConfigError("advertise", f"{self.advertise!r} is not a host name or IP address")
        _check_positive(self)
        for key in ("client_lifetime_s", "server_lifetime_s"):
            if getattr(self.certificates, key) < 300:  # noqa: PLR2004 - the documented minimum
                raise ConfigError(f"certificates.{key}", "must be at least 300 (5 minutes)")
        if self.server.max_lease_s > MAX_LEASE_S:
            raise ConfigError("server.max_lease_s", f"must be at most {MAX_LEASE_S}")
        if self.telemetry.log_format not in {"text", "json"}:
            raise ConfigError("telemetry.log_format", "must be text or json")
        if self.telemetry.prometheus:
            parse_address(self.telemetry.prometheus, "telemetry.prometheus")

    @property
    def socket_path(self) -> Path:
        """The absolute path of the admin socket. Raises `ConfigError` if it is too long to bind."""
        path = self.directory.absolute() / self.admin_socket
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            raise ConfigError(
                "admin_socket",
                f"the path {path} is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket may have; "
                "set admin_socket in gateway.toml to a shorter absolute path",
            )
        return path

    @property
    def audit_directory(self) -> Path:
        """The directory of archived audit events."""
        return self.directory.absolute() / "audit"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.store.url or f"sqlite+aiosqlite:///{self.directory.absolute() / 'gateway.db'}"

    @property
    def advertised_host(self) -> str:
        """The host that enrollment tokens and answers name."""
        host, _ = parse_address(self.listen, "listen")
        return self.advertise or (self.name if _is_wildcard(host) else host)

    def advertised(self, bound: str) -> str:
        """Return the host:port at which peers reach a bound address."""
        return join_address(self.advertised_host, bound.rpartition(":")[2])

    @classmethod
    def load(cls, directory: Path) -> "GatewayConfig":
        """Read `gateway.toml` in a gateway's directory. Raises `ConfigError` that names the wrong field."""
        path = directory / CONFIG_FILE
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(
                "gateway",
                f"{directory} is not a gateway's directory; make one",
                remedy=Remedy(action=Action.INIT_GATEWAY, directory=str(directory)),
            ) from None
        except OSError as e:
            raise ConfigError("gateway", f"cannot read {path}: {e.strerror}") from e
        except UnicodeDecodeError as e:
            raise ConfigError("gateway", f"{path} is not UTF-8 text: {e}") from e
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as e:
            raise ConfigError("gateway", f"{path} is not TOML: {e}") from e
        config: GatewayConfig = _build(cls, document, "", directory=directory)
        return config


def is_gateway_name(name: str) -> bool:
    """Tell whether a name is valid for a gateway: a DNS name in lower case of at most 63 characters."""
    return _NAME.match(name) is not None


def parse_address(address: str, name: str) -> tuple[str, int]:
    """Split `host:port` (an IPv6 host in brackets). Raises `ConfigError` that names the field."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not _HOST.match(bare) or (":" in bare) != (bare != host):
        raise ConfigError(name, f"{address!r} is not host:port, such as 127.0.0.1:7443")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):  # noqa: PLR2004
        raise ConfigError(name, f"{port!r} is not a port from 0 to 65535")
    return bare, int(port)


def join_address(host: str, port: int | str) -> str:
    """Return `host:port`, with an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified  # recognizes every spelling of the zeros
    except ValueError:
        return False


def _build(kind: type[Any], document: Mapping[str, Any], prefix: str, **given: Any) -> Any:
    hints = get_type_hints(kind)
    known: dict[str, Field[Any]] = {f.name: f for f in fields(kind) if f.name not in given}
    values = dict(given)
    for key, value in document.items():
        if key not in known:
            near = near_matches(key, known, most=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise ConfigError(f"{prefix}{key}", f"unknown setting{hint}")
        values[key] = _value(hints[key], value, f"{prefix}{key}")
    for name, setting in known.items():
        if name not in values and setting.default is MISSING and setting.default_factory is MISSING:
            raise ConfigError(f"{prefix}{name}", "is missing")
    return kind(**values)


def _value(hint: Any, value: object, name: str) -> Any:
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        if not isinstance(value, dict):
            raise ConfigError(name, "must be a table")
        return _build(hint, value, f"{name}.")
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) not in kinds:
        expected = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise ConfigError(name, f"must be {expected}, not {value!r}")
    return value


def _check_positive(config: Any, prefix: str = "") -> None:
    for setting in fields(config):
        value = getattr(config, setting.name)
        if hasattr(value, "__dataclass_fields__"):
            _check_positive(value, f"{prefix}{setting.name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            may_be_zero = setting.name in {"jitter", "retention_days"}
            if not 0 <= value < math.inf or (value == 0 and not may_be_zero):
                raise ConfigError(f"{prefix}{setting.name}", f"must be a positive number, not {value!r}")

"""The settings of one gateway: `gateway.toml` in its directory, read once, every field checked.

A setting that is not in the file has the default that stands here.
"""

import ipaddress
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

__all__ = [
    "CONFIG_FILE",
    "AuditConfig",
    "CacheConfig",
    "CertificateConfig",
    "CircuitConfig",
    "ClientConfig",
    "GatewayConfig",
    "ServerConfig",
    "SessionConfig",
    "StoreConfig",
    "TelemetryConfig",
    "is_gateway_name",
    "parse_address",
]

CONFIG_FILE: Final = "gateway.toml"
MAX_LEASE_S: Final = 30
MAX_SOCKET_PATH: Final = 107
"""Bytes of a Unix socket path, one less than `sun_path` holds."""
_NAME: Final = re.compile(r"(?=.{1,63}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?\Z|[0-9a-fA-F:.]{2,45}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """`[store]`: where grants, peers, audit and the embedded provider's rows are kept."""

    url: str = ""
    """SQLAlchemy URL with an async driver (`postgresql+asyncpg://…`). Empty: SQLite, `gateway.db` in the directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """`[server]`: how this gateway serves its peers."""

    graceful_stop_s: float = 5.0
    """How long calls under way may go on after a stop was asked for."""
    audit_queue: int = 4_096
    """Allowed reads that wait to be written; a full queue holds replies, and then fails them."""
    max_lease_s: float = 30.0
    """How long a peer may keep an answer, 30 at most. What is taken back is effective a tenth later at the latest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """`[client]`: how this gateway calls its peers."""

    deadline_s: float = 2.0
    """Budget of a call whose caller set none."""
    watch: bool = True
    """Whether a stream from each peer tells of revocations and changes at once. Without it, leases alone bound both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """`[session]`: how a session asks several sources at once."""

    peer_budget_s: float = 2.0
    """What each peer may take. One that takes longer is reported as offline, and its rows are left out."""
    request_budget_s: float | None = None
    """What a whole request may take, this gateway's own data included. Unset: each peer's budget alone."""
    announce_restored: bool = True
    """Whether a session also says, once a peer, that a peer is back."""
    warm_concurrency: int = 4
    """Calls at a time with which a session fills the cache ahead of its first question."""

    def __post_init__(self) -> None:
        _check_positive(self, "session.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """`[cache]`: the response cache for `list` and `get`."""

    ttl_s: float = 30.0
    """Longest life of an answer, from the moment its request was sent. The peer's lease may shorten it."""
    max_bytes: int = 64 * 1024 * 1024
    """Bound of all peers together; each peer has a fair share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitConfig:
    """`[circuit]`: when a peer counts as down."""

    failure_threshold: int = 5
    """Consecutive failures that open the circuit."""
    cooldown_s: float = 30.0
    """How long the circuit stays open before one probe; doubles while probes fail."""
    max_cooldown_s: float = 300.0
    """Bound of the doubling."""
    jitter: float = 0.1
    """Random share by which a cooldown is made longer or shorter."""
    slow_call_s: float | None = None
    """Answers slower than this count as failures. Unset: speed never counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateConfig:
    """`[certificates]`: what this gateway's authority issues."""

    client_lifetime_s: int = 86_400
    """Life of a client certificate; 300 is the least."""
    server_lifetime_s: int = 31_536_000
    """Life of this gateway's own server certificate; 300 is the least."""
    token_lifetime_s: int = 900
    """Life of an enrollment token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditConfig:
    """`[audit]`: how long this gateway's record of reads and acts stays in its database."""

    retention_days: int = 90
    """Whole days in the database; what is older moves to a compressed file a day in `audit/`. 0: it stays for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetryConfig:
    """`[telemetry]`: spans, metrics and logs. Where they go is set by the standard `OTEL_*` variables."""

    enabled: bool = True
    """False: neither spans nor metrics are made."""
    hit_spans: bool = True
    """Whether an answer from the cache makes a span."""
    rpc_spans: bool = False
    """Whether `opentelemetry-instrumentation-grpc` adds its RPC spans beneath `federation.request`."""
    log_format: str = "text"
    """`text` or `json`."""
    prometheus: str = ""
    """host:port of an HTTP page with the metrics, such as 127.0.0.1:9464. Empty: none. It has no password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """All settings of the gateway in `directory`."""

    directory: Path
    name: str
    """The gateway's name: a DNS name in lower case. Peers know it by this name, and its certificate carries it."""
    listen: str = "127.0.0.1:7443"
    """host:port of the federation service (mutual TLS). Port 0 takes a free one."""
    enroll: str = "127.0.0.1:7444"
    """host:port of the enrollment service (server TLS)."""
    advertise: str = ""
    """Host by which peers reach this gateway. Empty: the host of `listen`, or the name where that is a wildcard."""
    admin_socket: str = "run/admin.sock"
    """Unix socket of the operator's commands, in a directory that only the gateway's user may enter."""
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
            if getattr(self.certificates, key) < 300:  # noqa: PLR2004 - the documented least
                raise ConfigError(f"certificates.{key}", "must be at least 300 (5 minutes)")
        if self.server.max_lease_s > MAX_LEASE_S:
            raise ConfigError("server.max_lease_s", f"must be at most {MAX_LEASE_S}")
        if self.telemetry.log_format not in {"text", "json"}:
            raise ConfigError("telemetry.log_format", "must be text or json")
        if self.telemetry.prometheus:
            parse_address(self.telemetry.prometheus, "telemetry.prometheus")

    @property
    def socket_path(self) -> Path:
        """The admin socket, absolute. Raises `ConfigError` where the system could not bind it."""
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
        """Where old audit events are kept in files."""
        return self.directory.absolute() / "audit"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.store.url or f"sqlite+aiosqlite:///{self.directory.absolute() / 'gateway.db'}"

    @property
    def advertised_host(self) -> str:
        """The host that enrollment tokens and answers name."""
        host, _ = parse_address(self.listen, "listen")
        return self.advertise or (self.name if _is_wildcard(host) else host)

    @classmethod
    def load(cls, directory: Path) -> "GatewayConfig":
        """Read `gateway.toml` of a gateway's directory; raise `ConfigError` that names the field."""
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
    """Tell whether a text may name a gateway: a DNS name in lower case, at most 63 characters."""
    return _NAME.match(name) is not None


def parse_address(address: str, name: str) -> tuple[str, int]:
    """Split `host:port` (an IPv6 host in brackets); raise `ConfigError` that names the field."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not _HOST.match(bare) or (":" in bare) != (bare != host):
        raise ConfigError(name, f"{address!r} is not host:port, such as 127.0.0.1:7443")
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):  # noqa: PLR2004
        raise ConfigError(name, f"{port!r} is not a port from 0 to 65535")
    return bare, int(port)


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified  # however its zeros are written
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
            least_is_zero = setting.name in {"jitter", "retention_days"}
            if value < 0 or (value == 0 and not least_is_zero) or value != value or value == float("inf"):  # noqa: PLR0124
                raise ConfigError(f"{prefix}{setting.name}", f"must be a positive number, not {value!r}")

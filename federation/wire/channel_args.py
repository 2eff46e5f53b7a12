"""Typed gRPC channel and server options: gRPC silently ignores misspelled or mistyped ones."""

from dataclasses import dataclass, fields
from typing import Final

Options = list[tuple[str, int | str]]
MEBIBYTE: Final = 1 << 20
MAX_MESSAGE_BYTES: Final = 4 * MEBIBYTE

_PREFIXES: Final = {
    # In this version of gRPC Core only the ping timeout has an effect, not the keepalive timeout (grpc#39239).
    "ping_timeout_ms": "grpc.http2.",
    "max_pings_without_data": "grpc.http2.",
    # Unlike its C constant, the option's name does not contain `recv`.
    "min_ping_interval_without_data_ms": "grpc.http2.",
    "overload_protection": "grpc.http.",
}
"""Prefixes of the options whose names do not begin with `grpc.` and the field's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """Options of a client channel. Each field is the gRPC option of the same name; times are in milliseconds."""

    keepalive_time_ms: int = 20_000
    ping_timeout_ms: int = 5_000
    keepalive_timeout_ms: int = 5_000
    keepalive_permit_without_calls: int = 1
    max_pings_without_data: int = 0
    use_local_subchannel_pool: int = 1
    initial_reconnect_backoff_ms: int = 250
    min_reconnect_backoff_ms: int = 2_000
    max_reconnect_backoff_ms: int = 5_000
    enable_retries: int = 0
    max_receive_message_length: int = MAX_MESSAGE_BYTES

    def to_grpc(self, target_name: str) -> Options:
        """Return the options for gRPC. `target_name` is the DNS name that the server's certificate must contain."""
        return [*_to_grpc(self), ("grpc.ssl_target_name_override", target_name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Options of a server. With `so_reuseport=0` a second server on the same port fails instead of sharing it."""

    so_reuseport: int = 0
    min_ping_interval_without_data_ms: int = 10_000
    keepalive_time_ms: int = 20_000
    ping_timeout_ms: int = 5_000
    keepalive_permit_without_calls: int = 1
    max_connection_age_ms: int = 600_000
    max_connection_age_grace_ms: int = 30_000
    max_concurrent_streams: int = 256
    # With protection, ended streams count until their memory is freed, so a peer within the limit is sometimes refused
    # with REFUSED_STREAM, which it sees as UNAVAILABLE and must treat as a network error.
    overload_protection: int = 0
    max_receive_message_length: int = 256 * 1024
    max_send_message_length: int = MAX_MESSAGE_BYTES

    def to_grpc(self) -> Options:
        """Return the options for gRPC."""
        return _to_grpc(self)


def _to_grpc(options: ChannelOptions | ServerOptions) -> Options:
    result: Options = []
    for field in fields(options):
        value = getattr(options, field.name)
        if type(value) is not int:
            raise TypeError(f"{field.name} must be an int, not {value!r}")
        result.append((_PREFIXES.get(field.name, "grpc.") + field.name, value))
    return result


CHANNEL: Final = ChannelOptions()
SERVER: Final = ServerOptions()

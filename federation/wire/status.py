"""Rich errors (`google.rpc.Status`) in one shape for both ends, whoever made them."""

from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from federation.errors import Refusal
from federation.wire.metadata import Metadata

__all__ = ["DOMAIN", "ErrorDetail", "error_detail", "error_detail_of", "refusal_status", "status_code"]

DOMAIN: Final = "federation.mosaic"
STATUS_KEY: Final = "grpc-status-details-bin"
MAX_MESSAGE_BYTES: Final = 1_000
"""Of a message in UTF-8: it travels twice, once percent-encoded, and all of it must stay below 4 kB."""


def status_code(name: str) -> grpc.StatusCode:
    """Return the gRPC status code of a canonical name."""
    return grpc.StatusCode[name]


def refusal_status(refusal: Refusal, *, local: bool = False) -> tuple[grpc.StatusCode, str, Metadata]:
    """Return code, details and trailing metadata that say `refusal` on the wire.

    `local` marks an error that this gateway made itself (`origin=local`), so that nobody counts it as a peer's.
    """
    code = status_code(refusal.code)
    message = refusal.message.encode(errors="replace")[:MAX_MESSAGE_BYTES].decode(errors="ignore")
    status = Status(code=code.value[0], message=message)
    info = ErrorInfo(reason=refusal.reason.value, domain=DOMAIN)
    if local:
        info.metadata["origin"] = "local"
    status.details.add().Pack(info)
    if refusal.retry_after_s is not None:
        retry = Duration()
        retry.FromNanoseconds(max(0, round(refusal.retry_after_s * 1e9)))
        status.details.add().Pack(RetryInfo(retry_delay=retry))
    return code, message, ((STATUS_KEY, status.SerializeToString()),)


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """What a rich error says: `reason` is empty when it carries none of this domain."""

    reason: str = ""
    local: bool = False
    retry_after_s: float | None = None


def error_detail(trailing: Metadata | None) -> ErrorDetail:
    """Read the rich error in trailing metadata; whatever cannot be read is as if it were absent."""
    for key, value in trailing or ():
        if key == STATUS_KEY and isinstance(value, bytes):
            return _read(value)
    return ErrorDetail()


def error_detail_of(error: grpc.RpcError) -> ErrorDetail:
    """Read the rich error of an exception that a generated stub raised, sync or aio."""
    metadata: Any = getattr(error, "trailing_metadata", tuple)()
    return error_detail(tuple((key, value) for key, value in metadata or ()))


def _read(value: bytes) -> ErrorDetail:
    status = Status()
    reason, local, retry = "", False, None
    try:
        status.ParseFromString(value)
        for packed in status.details:
            info, delay = ErrorInfo(), RetryInfo()
            if packed.Unpack(info) and info.domain == DOMAIN:
                reason, local = info.reason, info.metadata.get("origin") == "local"
            elif packed.Unpack(delay):
                retry = delay.retry_delay.ToNanoseconds() / 1e9
    except (DecodeError, ValueError):  # a peer may send anything here
        return ErrorDetail()
    return ErrorDetail(reason, local, retry)

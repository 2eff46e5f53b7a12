"""Conversion of this package's errors to gRPC statuses on the admin socket and back. Type and message are preserved."""

import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from federation.errors import (
    ConfigError,
    ConflictError,
    EnrollmentError,
    FederationError,
    GatewayUnavailableError,
    ImportFailedError,
    InputError,
    LockedError,
    NotFoundError,
    Reason,
    Refusal,
    SealError,
    StoreError,
    log_incident,
)
from federation.wire.metadata import Metadata
from federation.wire.status import STATUS_KEY, error_detail, pack_remedy, refusal_status, unpack_remedy

LOGGER: Final = logging.getLogger(__name__)
ADMIN_DOMAIN: Final = "admin.federation.mosaic"
MAX_ENCODED: Final = 2_400
"""Largest percent-encoded message, in bytes. A status holds it twice, and gRPC drops responses with more than 16 kB
of metadata."""

_CODES: Final[Mapping[type[FederationError], grpc.StatusCode]] = {
    ConfigError: grpc.StatusCode.FAILED_PRECONDITION,
    InputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    ConflictError: grpc.StatusCode.FAILED_PRECONDITION,
    GatewayUnavailableError: grpc.StatusCode.UNAVAILABLE,
    LockedError: grpc.StatusCode.FAILED_PRECONDITION,
    StoreError: grpc.StatusCode.ABORTED,
    SealError: grpc.StatusCode.FAILED_PRECONDITION,
    EnrollmentError: grpc.StatusCode.FAILED_PRECONDITION,
    ImportFailedError: grpc.StatusCode.INVALID_ARGUMENT,
    FederationError: grpc.StatusCode.INTERNAL,
}
_KINDS: Final = {kind.__name__: kind for kind in _CODES}
_BUILD: Final[Mapping[type[FederationError], Callable[[Mapping[str, str]], FederationError]]] = {
    ConfigError: lambda info: ConfigError(info.get("field", ""), ""),
    InputError: lambda info: InputError(info.get("field", ""), ""),
    NotFoundError: lambda info: NotFoundError(info.get("what", ""), info.get("name", "")),
    ImportFailedError: lambda info: ImportFailedError((), int(info.get("total", "0"))),
}
"""Functions that rebuild the errors that have attributes beside the message; the message is set afterwards."""
_ATTRIBUTES: Final = ("field", "what", "name", "total")
"""Attributes of an error that its status carries beside the message."""


def status_of(error: FederationError) -> tuple[grpc.StatusCode, str, Metadata]:
    """Return the code, the message and the trailing metadata that carry `error` over the admin socket."""
    if isinstance(error, Refusal):
        return refusal_status(error)
    kind = next(kind for kind in type(error).__mro__ if kind in _CODES)
    code, message = _CODES[kind], _truncate(str(error))
    info = ErrorInfo(reason=kind.__name__, domain=ADMIN_DOMAIN)
    for key in _ATTRIBUTES:
        if (value := getattr(error, key, None)) is not None:
            info.metadata[key] = str(value)[:200]
    pack_remedy(error.remedy, info)
    status = Status(code=code.value[0], message=message)
    status.details.add().Pack(info)
    return code, message, ((STATUS_KEY, status.SerializeToString()),)


def status_of_exception(exception: Exception, method: str) -> tuple[grpc.StatusCode, str, Metadata]:
    """Return the status of an exception of an admin call. Any but a `FederationError` is logged as an incident."""
    if isinstance(exception, FederationError):
        return status_of(exception)
    incident = log_incident(LOGGER, exception, method)
    return grpc.StatusCode.INTERNAL, f"incident {incident}; the gateway's log says more", ()


def error_of(error: grpc.RpcError) -> FederationError:
    """Rebuild the error that the gateway raised. A status that this package did not make becomes a readable error."""
    rpc_error: Any = error
    code, message = rpc_error.code(), rpc_error.details() or ""
    trailing = tuple((key, value) for key, value in rpc_error.trailing_metadata() or ())
    rebuilt = _rebuild(message, trailing)
    if rebuilt is not None:
        return rebuilt
    detail = error_detail(trailing)
    if detail.reason in Reason.__members__:
        return Refusal(Reason(detail.reason), message, retry_after_s=detail.retry_after_s, remedy=detail.remedy)
    if code is grpc.StatusCode.UNAVAILABLE:
        return GatewayUnavailableError(f"the gateway does not answer: {message}")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return GatewayUnavailableError("the gateway is running but does not answer in time: it hangs or is overloaded")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return FederationError("the gateway does not offer this operation; is it of another version than this client?")
    return FederationError(f"{code.name if code else 'UNKNOWN'}: {message}")


def _rebuild(message: str, trailing: Metadata) -> FederationError | None:
    packed = dict(trailing).get(STATUS_KEY)
    if not isinstance(packed, bytes):
        return None
    status, info = Status(), ErrorInfo()
    try:
        status.ParseFromString(packed)
        if not (status.details and status.details[0].Unpack(info) and info.domain == ADMIN_DOMAIN):
            return None
        kind = _KINDS.get(info.reason, FederationError)
        error = _BUILD[kind](info.metadata) if kind in _BUILD else kind()
    except (DecodeError, ValueError):
        return None
    error.args, error.remedy = (message,), unpack_remedy(info.metadata)
    return error


def _truncate(message: str) -> str:
    """Return the message, or its longest beginning that takes at most `MAX_ENCODED` bytes, followed by an ellipsis."""
    lengths = range(1, len(message) + 1)
    most = bisect_right(lengths, MAX_ENCODED, key=lambda length: len(quote(message[:length])))
    return message if most == len(message) else f"{message[:most]} …"

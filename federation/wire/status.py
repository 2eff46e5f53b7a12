"""Rich errors (`google.rpc.Status`) for both sides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from federation.errors import Refusal, Remedy
from federation.wire.metadata import Metadata

DOMAIN: Final = "federation.mosaic"
STATUS_KEY: Final = "grpc-status-details-bin"
REMEDY: Final = "remedy"
"""`ErrorInfo` metadata key of a remedy's action; `remedy_` is the prefix of the keys of its parameters."""
MAX_PARAMETER: Final = 200
"""Maximum characters of a remedy's parameter. A truncated parameter is useless, so a longer one omits the remedy."""
MAX_MESSAGE_BYTES: Final = 1_000
"""Maximum bytes of a message in UTF-8. It is sent twice, once percent-encoded, within 4 kB of metadata."""


def refusal_status(refusal: Refusal, *, local: bool = False) -> tuple[grpc.StatusCode, str, Metadata]:
    """Return gRPC code, details and trailing metadata of a refusal.

    `local` marks an error that this gateway made itself (`origin=local`), to distinguish it from an error of the peer.
    """
    code = grpc.StatusCode[refusal.code]
    message = refusal.message.encode(errors="replace")[:MAX_MESSAGE_BYTES].decode(errors="ignore")
    status = Status(code=code.value[0], message=message)
    info = ErrorInfo(reason=refusal.reason.value, domain=DOMAIN)
    if local:
        info.metadata["origin"] = "local"
    pack_remedy(refusal.remedy, info)
    status.details.add().Pack(info)
    if refusal.retry_after_s is not None:
        retry = Duration()
        retry.FromNanoseconds(max(0, round(refusal.retry_after_s * 1e9)))
        status.details.add().Pack(RetryInfo(retry_delay=retry))
    return code, message, ((STATUS_KEY, status.SerializeToString()),)


@dataclass(frozen=True, slots=True)
class ErrorDetail:
    """The content of a rich error. `reason` is empty if the error has no reason of this domain.

    Trust `remedy` only if `local` is true or the error came over the admin socket: a peer may send anything.
    """

    reason: str = ""
    local: bool = False
    retry_after_s: float | None = None
    remedy: Remedy | None = None


def error_detail(trailing: Metadata | None) -> ErrorDetail:
    """Return the rich error in trailing metadata; one that cannot be parsed counts as absent."""
    for key, value in trailing or ():
        if key == STATUS_KEY and isinstance(value, bytes):
            return _read(value)
    return ErrorDetail()


def error_detail_of(error: grpc.RpcError) -> ErrorDetail:
    """Return the rich error of an exception raised by a generated stub, sync or aio."""
    metadata: Any = getattr(error, "trailing_metadata", tuple)()
    return error_detail(tuple((key, value) for key, value in metadata or ()))


def pack_remedy(remedy: Remedy | None, info: ErrorInfo) -> None:
    """Add a remedy, if any, to the metadata of an error."""
    if remedy is None or any(len(value) > MAX_PARAMETER for value in remedy.parameters.values()):
        return
    info.metadata[REMEDY] = remedy.action.value
    for name, value in remedy.parameters.items():
        info.metadata[f"{REMEDY}_{name}"] = value


def unpack_remedy(metadata: Mapping[str, str]) -> Remedy | None:
    """Return the remedy in the metadata of an error, or `None` if there is none that this version knows."""
    prefix = f"{REMEDY}_"
    parameters = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    return Remedy.parse(metadata.get(REMEDY, ""), parameters)


def _read(value: bytes) -> ErrorDetail:
    status = Status()
    reason, local, retry, remedy = "", False, None, None
    try:
        status.ParseFromString(value)
        for packed in status.details:
            info, delay = ErrorInfo(), RetryInfo()
            if packed.Unpack(info) and info.domain == DOMAIN:
                reason, local = info.reason, info.metadata.get("origin") == "local"
                remedy = unpack_remedy(info.metadata)
            elif packed.Unpack(delay):
                retry = delay.retry_delay.ToNanoseconds() / 1e9
    except (DecodeError, ValueError):  # a peer may send anything here
        return ErrorDetail()
    return ErrorDetail(reason, local, retry, remedy)

"""The methods of the federation service, and the parsing of a request into a `Call`."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from federation.client.chain.flow import Call
from federation.wire.metadata import Metadata
from federation.wire.requests import resource_of, serialize
from federation.wire.verbs import VERBS

_MAX_TIMEOUT_S: Final = 86_400.0 * 365
"""Timeouts above a year are sent as none: gRPC's clock overflows on very large ones."""


_OPTIONS: Final = ("credentials", "wait_for_ready", "compression")
"""The remaining options of gRPC's multicallables, in their order."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the federation service."""

    path: str
    verb: str
    request: type[Message]
    response: type[Message]
    streams: bool

    def call(self, peer: "PeerIdentity", request: Any, metadata: Metadata, deadline: float) -> Call:
        """Parse a request into a call. Raises `TypeError` for a message of another type."""
        if not isinstance(request, self.request):
            raise TypeError(f"{self.path} takes a {self.request.__name__}, not {type(request).__name__}")
        body, resource = serialize(request), resource_of(request)
        return Call(self.path, self.verb, resource, peer.grant_id, peer.name, peer.user, body, metadata, deadline)

    def stream(self, peer: "PeerIdentity", metadata: Metadata, deadline: float) -> Call:
        """Return the call that opens a stream; its requests follow on the wire."""
        return Call(self.path, self.verb, "", peer.grant_id, peer.name, peer.user, b"", metadata, deadline)

    def decode(self, body: bytes) -> Message:
        """Parse a response. Raises `DecodeError`."""
        return self.response.FromString(body)


class PeerIdentity(Protocol):
    """The grant, the peer and the local user of a call."""

    @property
    def grant_id(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def user(self) -> str: ...  # noqa: D102


METHODS: Final = {verb.path: Method(verb.path, verb.name, verb.request, verb.response, verb.streams) for verb in VERBS}
"""Every method of the service by its path."""


def method_of(path: str, *, streams: bool, arity: str = "") -> Method:
    """Return the method of a path. Raises `ValueError` for a path or an arity that the chain does not have."""
    method = METHODS.get(path)
    if method is None or method.streams is not streams or arity:
        raise ValueError(
            f"{path} is not a method of the federation service{' of arity ' + arity if arity else ''}; "
            "use a channel of your own for it"
        )
    return method


def method_in(details: Any) -> Method | None:
    """Return the method of gRPC's call details, aio or sync; `None` for a method of another service."""
    path: str | bytes = details.method  # grpc.aio gives bytes, although its stubs say str
    return METHODS.get(path.decode() if isinstance(path, bytes) else path)


def changed_details(details: Any, left: float | None, metadata: Iterable[Any]) -> Any:
    """Copy gRPC's call details with the timeout and the metadata of the chain's call."""
    return details._replace(timeout=left, metadata=metadata)


def check_options(options: Mapping[str, Any], positional: tuple[Any, ...] = ()) -> None:
    """Raise `ValueError` for an option of gRPC's calls that the chain does not support."""
    for name, value in {**dict(zip(_OPTIONS, positional, strict=False)), **options}.items():
        if name not in _OPTIONS:
            raise TypeError(f"a call has no argument {name!r}")
        if value:
            raise ValueError(f"{name} is not supported through the federation chain")


def deadline_of(now: float, timeout: float | None, default_s: float) -> float:
    """Return the absolute deadline of a call that begins `now`. Raises `ValueError` for NaN."""
    seconds = default_s if timeout is None else timeout
    if math.isnan(seconds):
        raise ValueError("timeout must be a number of seconds, not NaN")
    return now + seconds


def remaining(now: float, deadline: float) -> float | None:
    """Return the seconds left, for gRPC: never negative, `None` for a call without a deadline."""
    left = deadline - now
    return None if left > _MAX_TIMEOUT_S else max(0.0, left)


def as_metadata(metadata: Iterable[Any] | None) -> Metadata:
    """Return metadata as a tuple of pairs, whatever sequence the caller gave."""
    return tuple(tuple(pair) if isinstance(pair, list) else pair for pair in metadata) if metadata else ()

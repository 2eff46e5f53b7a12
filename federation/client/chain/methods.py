"""The methods of the federation service, and the parsing of a request into a `Call`."""

import math
from collections.abc import Mapping
from typing import Any, Final, Protocol

from federation.client.chain.flow import Call
from federation.wire.requests import resource_of, serialize
from federation.wire.verbs import VERBS, Verb

_MAX_TIMEOUT_S: Final = 86_400.0 * 365
"""Timeouts above a year are sent as none: gRPC's clock overflows on very large ones."""


_OPTIONS: Final = ("credentials", "wait_for_ready", "compression")
"""The remaining options of gRPC's multicallables, in their order."""


class PeerIdentity(Protocol):
    """The grant, the peer and the local user of a call."""

    @property
    def grant_id(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def user(self) -> str: ...  # noqa: D102


METHODS: Final = {verb.path: verb for verb in VERBS}
"""Every method of the service by its path."""


def method_of(path: str, *, streams: bool, arity: str = "") -> Verb:
    """Return the method of a path. Raises `ValueError` for a path or an arity that the chain does not have."""
    method = METHODS.get(path)
    if method is None or method.streams is not streams or arity:
        raise ValueError(
            f"{path} is not a method of the federation service{' of arity ' + arity if arity else ''}; "
            "use a channel of your own for it"
        )
    return method


def method_in(details: Any) -> Verb | None:
    """Return the method of gRPC's call details, aio or sync; `None` for a method of another service."""
    path: str | bytes = details.method  # grpc.aio gives bytes, although its stubs say str
    return METHODS.get(path.decode() if isinstance(path, bytes) else path)


def check_options(options: Mapping[str, Any], positional: tuple[Any, ...] = ()) -> None:
    """Raise `ValueError` for an option of gRPC's calls that the chain does not support."""
    for name, value in {**dict(zip(_OPTIONS, positional, strict=False)), **options}.items():
        if name not in _OPTIONS:
            raise TypeError(f"a call has no argument {name!r}")
        if value:
            raise ValueError(f"{name} is not supported through the federation chain")


def new_call(
    method: Verb,
    peer: PeerIdentity,
    request: Any,
    timeout: float | None,
    metadata: Any,
    *,
    now: float,
    default_s: float,
) -> Call:
    """Parse a request into a call that begins `now`, with a timeout of `default_s` if the caller set none.

    `metadata` is any iterable of pairs. Raises `TypeError` for a message of another type, `ValueError` for a timeout of
    NaN.
    """
    if not isinstance(request, method.request):
        raise TypeError(f"{method.path} takes a {method.request.__name__}, not {type(request).__name__}")
    seconds = default_s if timeout is None else timeout
    if math.isnan(seconds):
        raise ValueError("timeout must be a number of seconds, not NaN")
    pairs = tuple(tuple(pair) if isinstance(pair, list) else pair for pair in metadata) if metadata else ()
    body, resource = serialize(request), resource_of(request)
    return Call(method.path, method.name, resource, peer.grant_id, peer.name, peer.user, body, pairs, now + seconds)


def remaining(now: float, deadline: float) -> float | None:
    """Return the seconds left, for gRPC: never negative, `None` for a call without a deadline."""
    left = deadline - now
    return None if left > _MAX_TIMEOUT_S else max(0.0, left)

"""Where tracing and leases join the pipeline; the defaults do nothing, so that each can be left out."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol

from federation.server.pipeline.identity import CallerIdentity
from federation.wire.metadata import Metadata

__all__ = ["NO_LEASES", "NO_TRACING", "CallTrace", "Leases", "NoTrace", "Tracing"]


class CallTrace(Protocol):
    """What the pipeline asks of the trace of one call."""

    @property
    def trace_id(self) -> str:
        """32 lower-case hexadecimal digits, or empty: then the audit takes the one of the caller's `traceparent`."""
        ...

    @property
    def trailing(self) -> Metadata:
        """Trailing metadata to send with the answer, good or bad; read once, before the call is served."""
        ...

    def finish(self, outcome: str, reason: str) -> None:
        """Hear how the call ended, just before the context is left: an outcome word, and the reason if refused.

        Nothing is raised out of the context that the pipeline did not raise itself.
        """
        ...


class Tracing(Protocol):
    """Makes the trace of one call, entered before the call is served and left after its last word.

    `verb` is the lower-case word, `resource` the one that the request names (comma-separated ones of a search, or
    empty), `identity` the certificate's (`None` where it was refused), `peer` the name of the grant's peer, empty
    where the grant is unknown. The exception of a refused call passes through `__exit__`, which must not swallow it.
    """

    def __call__(
        self, metadata: Metadata, verb: str, resource: str, identity: CallerIdentity | None, peer: str
    ) -> AbstractContextManager[CallTrace]:
        """Return the context of one call."""
        ...


class Leases(Protocol):
    """Notes what a peer may keep, before the reply leaves. Synchronous: nothing may come in between."""

    def note(self, grant_id: str, instance: str, lease_ms: int) -> int:
        """Note a lease of a grant for one cache object of the peer, and return the one to send: it, or 0."""
        ...


@dataclass(frozen=True, slots=True)
class NoTrace:
    """A call that nobody traces."""

    trace_id: str = ""
    trailing: Metadata = ()

    def finish(self, outcome: str, reason: str) -> None:
        """Do nothing."""


class _NoTracing:
    def __call__(
        self, metadata: Metadata, verb: str, resource: str, identity: CallerIdentity | None, peer: str
    ) -> AbstractContextManager[CallTrace]:
        return _UNTRACED


class _Unnoted:
    def note(self, grant_id: str, instance: str, lease_ms: int) -> int:
        return lease_ms


_UNTRACED: Final = nullcontext(NoTrace())
NO_TRACING: Final[Tracing] = _NoTracing()
NO_LEASES: Final[Leases] = _Unnoted()
"""Hands every lease out and remembers none of them."""

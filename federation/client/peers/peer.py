"""One peer of this gateway: its enrollment with its connections, chain, circuit and calls in flight."""

import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from federation.cache.entries import InvalidationReason
from federation.client.chain.flow import Call, Flow, Interceptor, Outcome, compose, refused
from federation.client.chain.runner import FlowRunner
from federation.client.interceptors.caching import fail_in_flight
from federation.client.interceptors.tagging import TaggingInterceptor
from federation.client.transport.connections import Dialer, PeerChannel
from federation.clock import from_micros
from federation.errors import Reason, Refusal
from federation.store.peers import PeerRecord

if TYPE_CHECKING:
    from federation.breaker import CircuitBreaker
    from federation.cache.response_cache import Partition
    from federation.client.chain.call_stats import PeerHealth
    from federation.client.chain.flow import Flight
    from federation.client.peers.renewal_plan import RenewalPlan
    from federation.client.peers.watch_handle import WatchHandle


class Revocation(NamedTuple):
    """The time at which this gateway learned that the peer revoked the grant (Unix microseconds), and the reason."""

    at_us: int
    reason: str
    """Printable and short."""


class PeerFactory(Protocol):
    """The factory of peers, and the receiver of their events."""

    def dialer(self, record: PeerRecord) -> Dialer:
        """Return the dialer for these credentials."""
        ...

    def build_peer(self, peer: "Peer") -> tuple[Interceptor, ...]:
        """Return the chain of a new peer, and set its circuit, cache, health and watch."""
        ...

    def on_added(self, peer: "Peer") -> None:
        """Start the watch of a peer that was added to the registry."""
        ...

    def on_revoked(self, peer: "Peer", reason: str) -> None:
        """Handle the peer's own message that it has revoked the grant. Any thread, and more than once."""
        ...

    def on_removed(self, peer: "Peer") -> None:
        """Release what `build_peer` made; the peer was removed."""
        ...


class Peer:
    """One enrollment in use.

    `circuit`, `cache` and `health` are the chain's state for this peer; the factory sets them. `watch` receives
    revocations and changes, unless watching is switched off; `renewal` schedules the replacement of the certificate.
    `runners` are the calls in flight. Once `revocation` is set, `refusal` answers every call.
    """

    def __init__(self, record: PeerRecord, factory: PeerFactory, channel: PeerChannel) -> None:
        self.record = record
        self.channel = channel
        self.circuit: CircuitBreaker
        self.cache: Partition[Flight]
        self.health: PeerHealth
        self.watch: WatchHandle | None = None
        self.renewal: RenewalPlan | None = None
        self.revocation: Revocation | None = None
        self.refusal: Outcome | None = None
        self.runners: set[FlowRunner] = set()
        self.tagging = TaggingInterceptor(record.name)
        self._ended: Outcome | None = None
        self._factory = factory
        self._revoking = threading.Lock()
        if record.revoked_at_us is not None:
            self.mark_revoked(Revocation(record.revoked_at_us, record.revoked_reason))
        self._proceed = compose(factory.build_peer(self))

    @property
    def name(self) -> str:
        """The peer's name on this gateway."""
        return self.record.name

    @property
    def user(self) -> str:
        """The local user for whom the peer is called."""
        return self.record.user

    @property
    def grant_id(self) -> str:
        """The grant under which the peer is called."""
        return self.record.grant_id

    def flow(self, call: Call) -> Flow:
        """Start the chain's flow of a call."""
        return self._proceed(call) if self._ended is None else self.answered(self._ended)

    def answered(self, outcome: Outcome) -> Flow:
        """Return a flow that ends at once with the outcome, tagged."""
        return _answered(self.tagging.tag(outcome))

    def track(self, runner: FlowRunner) -> None:
        """Add a call in flight to `runners` until it ends."""
        if not runner.done:
            self.runners.add(runner)
            runner.when_done(lambda: self.runners.discard(runner))

    def fail_calls(self, outcome: Outcome, owner: object = None) -> int:
        """End the calls in flight (of one owner) with this outcome; return how many. Any thread may call this."""
        chosen = [runner for runner in self.runners.copy() if owner is None or runner.owner is owner]
        for runner in chosen:
            runner.resolve_threadsafe(outcome)
        return len(chosen)

    def on_revoked(self, reason: str) -> None:
        """Handle the peer's own message that it has revoked the grant. Any thread may call this, also repeatedly."""
        self._factory.on_revoked(self, reason)

    def apply_revocation(self) -> None:
        """Flush the cache and fail the calls in flight after a revocation that came from the store or a renewal."""
        fail_in_flight(self.cache.flush(InvalidationReason.GRANT_REVOKED, self.grant_id))
        if self.refusal is not None:
            self.fail_calls(self.refusal)
        if self.watch is not None:
            self.watch.wake()

    def on_renewed(self) -> None:
        """Flush the entries fetched with the old credentials, and move the watch to the new ones."""
        fail_in_flight(self.cache.flush(InvalidationReason.ROTATION))
        if self.watch is not None:
            self.watch.move()

    def mark_revoked(self, revocation: Revocation) -> bool:
        """Refuse every call from now on; `False` if that is so already. Does not touch entries or calls in flight."""
        with self._revoking:
            if self.revocation is not None:
                return False
            self.refusal = _refusal(self.record, revocation)
            self.revocation = revocation
        return True

    def close(self, outcome: Outcome) -> None:
        """Answer every call with this outcome from now on, fail the calls in flight and disconnect."""
        self._ended = outcome
        self.fail_calls(outcome)
        self.channel.disconnect()

    def abandon_after_fork(self, outcome: Outcome) -> None:
        """Answer every call with this outcome; touch nothing else, which in a forked child is the parent's."""
        self._ended = outcome
        self.runners = set()
        self.channel.abandon_after_fork()


def _refusal(record: PeerRecord, revocation: Revocation) -> Outcome:
    text = f"{record.name} revoked the grant of {record.user} at {from_micros(revocation.at_us):%Y-%m-%dT%H:%M:%SZ}"
    return refused(Refusal(Reason.GRANT_REVOKED, f"{text}: {revocation.reason}" if revocation.reason else text))


def _answered(outcome: Outcome) -> Flow:
    yield from ()  # makes this a generator
    return outcome

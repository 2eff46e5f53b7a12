"""One peer of this gateway: its enrollment with its connections, chain, circuit and calls under way."""

import threading
from typing import TYPE_CHECKING, NamedTuple, Protocol

from federation.client.chain.flow import Call, Flow, Interceptor, Outcome, compose, refused
from federation.client.chain.runner import FlowRunner
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

__all__ = ["Peer", "PeerFactory", "Revocation"]


class Revocation(NamedTuple):
    """When this gateway heard that the peer revoked the grant (Unix microseconds), and why: printable and short."""

    at_us: int
    reason: str


class PeerFactory(Protocol):
    """What a federation makes for each peer: how to dial, and the chain with the state behind it."""

    def dialer(self, record: PeerRecord) -> Dialer:
        """Return how to dial with these credentials."""
        ...

    def build_peer(self, peer: "Peer") -> tuple[Interceptor, ...]:
        """Return the chain of a new peer, and set its circuit, cache, health and watch."""
        ...

    def added(self, peer: "Peer") -> None:
        """Begin what a new peer needs: it is in the registry."""
        ...

    def revoked(self, peer: "Peer", reason: str) -> None:
        """Hear in the peer's own words that it has revoked the grant; any thread, and more than once."""
        ...

    def settled(self, peer: "Peer") -> None:
        """Hear that the peer's grant is revoked, as the store knows or a renewal was told, which was news here."""
        ...

    def renewed(self, peer: "Peer") -> None:
        """Hear that the peer is dialled with other credentials from now on."""
        ...

    def drop(self, peer: "Peer") -> None:
        """Let go of what `equip` made; the peer was removed."""
        ...


class Peer:
    """One enrollment in use.

    `circuit`, `cache` and `health` are what the chain keeps for this peer; each is `None` in a chain without that
    member. `watch` hears of revocations and changes; `renewal` is when the certificate is replaced. `runs` are the
    calls under way. Once `revocation` is set, `refusal` is the answer to every call.
    """

    def __init__(self, record: PeerRecord, parts: PeerFactory, channel: PeerChannel) -> None:
        self.record = record
        self.channel = channel
        self.circuit: CircuitBreaker | None = None
        self.cache: Partition[Flight] | None = None
        self.health: PeerHealth | None = None
        self.watch: WatchHandle | None = None
        self.renewal: RenewalPlan | None = None
        self.revocation: Revocation | None = None
        self.refusal: Outcome | None = None
        self.runs: set[FlowRunner] = set()
        self.tagging = TaggingInterceptor(record.name)
        self._ended: Outcome | None = None
        self._parts = parts
        self._revoking = threading.Lock()
        if record.revoked_at_us is not None:
            self.settle(Revocation(record.revoked_at_us, record.revoked_reason))
        self._proceed = compose(parts.build_peer(self))

    @property
    def name(self) -> str:
        """How this gateway calls the peer."""
        return self.record.name

    @property
    def user(self) -> str:
        """The local user for whom the peer is asked."""
        return self.record.user

    @property
    def grant_id(self) -> str:
        """The grant under which the peer is asked."""
        return self.record.grant_id

    def flow(self, call: Call) -> Flow:
        """Start the chain's flow of a call."""
        return self._proceed(call) if self._ended is None else self.answered(self._ended)

    def answered(self, outcome: Outcome) -> Flow:
        """Return a flow that ends at once with the outcome, tagged."""
        return _answered(self.tagging.tag(outcome))

    def track(self, run: FlowRunner) -> None:
        """Keep a call that is under way among `runs` until it ends."""
        if not run.done:
            self.runs.add(run)
            run.when_done(lambda: self.runs.discard(run))

    def cut(self, outcome: Outcome, owner: object = None) -> int:
        """End every call under way (of one owner) with this outcome; return how many. Any thread may call this."""
        chosen = [run for run in self.runs.copy() if owner is None or run.owner is owner]
        for run in chosen:
            run.cut(outcome)
        return len(chosen)

    def revoked(self, reason: str) -> None:
        """Hear in the peer's own words that it has revoked the grant. Any thread may call this; once is enough."""
        self._parts.revoked(self, reason)

    def settled(self) -> None:
        """Drop what is kept, and end the calls under way: the grant was revoked, and no watch brought the word."""
        self._parts.settled(self)

    def settle(self, revocation: Revocation) -> bool:
        """Refuse every call from here on, for good; `False` where that was so. Entries and calls are not touched."""
        with self._revoking:
            if self.revocation is not None:
                return False
            self.refusal = _refusal(self.record, revocation)
            self.revocation = revocation
        return True

    def end(self, outcome: Outcome) -> None:
        """Answer everything with this outcome from now on, cut what is under way and give up the connections."""
        self._ended = outcome
        self.cut(outcome)
        self.channel.rest()

    def abandon_after_fork(self, outcome: Outcome) -> None:
        """Answer everything with this outcome, and touch nothing else: in a forked child all else is the parent's."""
        self._ended = outcome
        self.runs = set()
        self.channel.abandon_after_fork()


def _refusal(record: PeerRecord, revocation: Revocation) -> Outcome:
    text = f"{record.name} revoked the grant of {record.user} at {from_micros(revocation.at_us):%Y-%m-%dT%H:%M:%SZ}"
    return refused(Refusal(Reason.GRANT_REVOKED, f"{text}: {revocation.reason}" if revocation.reason else text))


def _answered(outcome: Outcome) -> Flow:
    yield from ()  # what makes it a generator
    return outcome

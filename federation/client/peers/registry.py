"""The peers of this gateway: one a remote gateway and local user, each with its own connections, chain and circuit."""

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from federation.client.chain.flow import Call, Flow, Interceptor, Outcome, compose, refused
from federation.client.chain.runner import FlowRunner
from federation.client.interceptors.tagging import TaggingInterceptor
from federation.client.transport.connections import Dialer, PeerChannel
from federation.clock import from_micros
from federation.errors import ConflictError, InputError, NotFoundError, Reason, Refusal, unknown_peer
from federation.store.peers import PeerRecord
from federation.suggest import near_matches

if TYPE_CHECKING:
    from federation.breaker import CircuitBreaker
    from federation.cache.response_cache import Partition
    from federation.client.chain.call_stats import PeerHealth
    from federation.client.chain.flow import Flight
    from federation.client.peers.renewal_plan import RenewalPlan
    from federation.client.watch.watch import PeerWatch

__all__ = ["Peer", "PeerFactory", "PeerRegistry", "Revocation"]


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
        self.watch: PeerWatch | None = None
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


class PeerRegistry:
    """Every peer by name and local user. Threads may share it."""

    def __init__(self, parts: PeerFactory, channel: Callable[[Dialer], PeerChannel]) -> None:
        self._parts, self._channel = parts, channel
        self._lock = threading.RLock()
        self._peers: dict[tuple[str, str], Peer] = {}
        self._generation = 0

    @property
    def generation(self) -> int:
        """A number that rises with every change of the registry."""
        return self._generation

    def all(self, user: str | None = None) -> tuple[Peer, ...]:
        """Return the peers, of one user or of all, by name and user."""
        peers = sorted(self._peers.copy().items())
        return tuple(peer for _, peer in peers if user is None or peer.user == user)

    def get(self, name: str, user: str | None = None) -> Peer:
        """Return one peer. `user` may be left out where only one is enrolled there.

        Raises `NotFoundError` with near matches, and `InputError` where `user` is needed.
        """
        if user is not None and (found := self._peers.get((name, user))):
            return found
        users = {peer.user: peer for peer in self.all() if peer.name == name}
        if user is None and len(users) == 1:
            return next(iter(users.values()))
        if user is None and users:
            raise InputError("user", f"{', '.join(users)} are enrolled at {name}; say which")
        if users:
            raise NotFoundError("enrollment at " + name + " for user", user or "", near_matches(user or "", users))
        near = near_matches(name, {peer.name for peer in self.all()})
        raise unknown_peer(name, near)

    def add(self, record: PeerRecord) -> Peer:
        """Take in an enrollment; nothing where `load` was quicker.

        Raises `ConflictError` for a known name and user, or a grant id in use.
        """
        with self._lock:
            known = self._peers.get((record.name, record.user))
            if known is not None and known.record.id == record.id:
                return known
            if known is not None:
                raise ConflictError(f"{record.name} is known for user {record.user}")
            if any(peer.grant_id == record.grant_id for peer in self._peers.values()):
                raise ConflictError(f"the grant {record.grant_id} is in use by another peer")
            peer = Peer(record, self._parts, self._channel(self._parts.dialer(record)))
            self._peers[record.name, record.user] = peer
            self._generation += 1
        self._parts.added(peer)
        return peer

    def remove(self, name: str, user: str) -> Peer:
        """Forget a peer: its calls under way fail, its connections and all state are dropped."""
        with self._lock:
            peer = self.get(name, user)
            del self._peers[name, user]
            self._generation += 1
        peer.end(refused(Refusal(Reason.GRANT_REVOKED, f"the peer {name} was removed from this gateway")))
        self._parts.drop(peer)
        return peer

    def renew(self, record: PeerRecord) -> None:
        """Take other credentials for a known peer, from its next call on; nothing where it has them, or is gone."""
        with self._lock:
            peer = self._peers.get((record.name, record.user))
            if peer is not None and peer.record.id == record.id and peer.record != record:
                self._renew(peer, record)

    def load(self, records: Iterable[PeerRecord], *, unless_changed_since: int | None = None) -> bool:
        """Bring the registry to what the store holds: new peers come, missing ones go, other credentials are taken.

        Does nothing and returns `False` where the generation is not `unless_changed_since` any more: then the records
        may be older than what the registry knows.
        """
        wanted = {(record.name, record.user): record for record in records}
        with self._lock:
            if unless_changed_since not in {None, self._generation}:
                return False
            for key, peer in list(self._peers.items()):
                record = wanted.get(key)
                if record is None or (record.id, record.grant_id) != (peer.record.id, peer.grant_id):
                    self.remove(*key)
                elif record != peer.record:
                    self._renew(peer, record)
            for key, record in wanted.items():
                if key not in self._peers:
                    self.add(record)
        return True

    def _renew(self, peer: Peer, record: PeerRecord) -> None:
        self._generation += 1
        swapped = _dialled_by(record) != _dialled_by(peer.record)
        if swapped:
            peer.channel.swap(self._parts.dialer(record))
        peer.record = record
        if swapped:
            self._parts.renewed(peer)
        if record.revoked_at_us is not None and peer.settle(Revocation(record.revoked_at_us, record.revoked_reason)):
            peer.settled()


def _dialled_by(record: PeerRecord) -> tuple[str, ...]:
    return record.endpoint, record.gateway, record.certificate_pem, record.key_pem, record.trust_bundle

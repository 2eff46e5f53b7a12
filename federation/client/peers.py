"""The peers of this gateway: one a remote gateway and local user, each with its own connections, chain and circuit."""

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from federation.client.channel import Dialer, PeerChannel
from federation.client.flow import Call, Flow, Interceptor, Outcome, compose, refused
from federation.client.interceptors.tagging import TaggingInterceptor
from federation.client.run import Run
from federation.errors import ConflictError, InputError, NotFoundError, Reason, Refusal
from federation.near import near_matches
from federation.store.peers import PeerRecord

if TYPE_CHECKING:
    from federation.breaker import CircuitBreaker
    from federation.cache import Partition
    from federation.client.flight import Flight
    from federation.client.health import PeerHealth

__all__ = ["Peer", "PeerParts", "PeerRegistry"]


class PeerParts(Protocol):
    """What a federation makes for each peer: how to dial, and the chain with the state behind it."""

    def dialer(self, record: PeerRecord) -> Dialer:
        """Return how to dial with these credentials."""
        ...

    def equip(self, peer: "Peer") -> tuple[Interceptor, ...]:
        """Return the chain of a new peer, and set its circuit, cache and health."""
        ...

    def drop(self, peer: "Peer") -> None:
        """Let go of what `equip` made; the peer was removed."""
        ...


class Peer:
    """One enrollment in use.

    `circuit`, `cache` and `health` are what the chain keeps for this peer; each is `None` in a chain without that
    member. `runs` are the calls under way.
    """

    def __init__(self, record: PeerRecord, parts: PeerParts, channel: PeerChannel) -> None:
        self.record = record
        self.channel = channel
        self.circuit: CircuitBreaker | None = None
        self.cache: Partition[Flight] | None = None
        self.health: PeerHealth | None = None
        self.runs: set[Run] = set()
        self.tagging = TaggingInterceptor(record.name)
        self._ended: Outcome | None = None
        self._proceed = compose(parts.equip(self))

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

    def track(self, run: Run) -> None:
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

    def end(self, outcome: Outcome) -> None:
        """Answer everything with this outcome from now on, cut what is under way and give up the connections."""
        self._ended = outcome
        self.cut(outcome)
        self.channel.rest()

    def forsake(self, outcome: Outcome) -> None:
        """Answer everything with this outcome, and touch nothing else: in a forked child all else is the parent's."""
        self._ended = outcome
        self.runs = set()
        self.channel.forsake()


def _answered(outcome: Outcome) -> Flow:
    yield from ()  # what makes it a generator
    return outcome


class PeerRegistry:
    """Every peer by name and local user. Threads may share it."""

    def __init__(self, parts: PeerParts, channel: Callable[[Dialer], PeerChannel]) -> None:
        self._parts, self._channel = parts, channel
        self._lock = threading.RLock()
        self._peers: dict[tuple[str, str], Peer] = {}

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
        raise NotFoundError("peer", name, near, "`mosaic federation peer add` enrolls this gateway at another")

    def add(self, record: PeerRecord) -> Peer:
        """Take in an enrollment. Raises `ConflictError` for a known name and user, or a grant id in use."""
        with self._lock:
            if (record.name, record.user) in self._peers:
                raise ConflictError(f"{record.name} is known for user {record.user}")
            if any(peer.grant_id == record.grant_id for peer in self._peers.values()):
                raise ConflictError(f"the grant {record.grant_id} is in use by another peer")
            peer = Peer(record, self._parts, self._channel(self._parts.dialer(record)))
            self._peers[record.name, record.user] = peer
        return peer

    def remove(self, name: str, user: str) -> Peer:
        """Forget a peer: its calls under way fail, its connections and all state are dropped."""
        with self._lock:
            peer = self.get(name, user)
            del self._peers[name, user]
        peer.end(refused(Refusal(Reason.GRANT_REVOKED, f"the peer {name} was removed from this gateway")))
        self._parts.drop(peer)
        return peer

    def load(self, records: Iterable[PeerRecord]) -> None:
        """Bring the registry to what the store holds: new peers come, missing ones go, other credentials are taken."""
        wanted = {(record.name, record.user): record for record in records}
        with self._lock:
            for key, peer in list(self._peers.items()):
                record = wanted.get(key)
                if record is None or (record.id, record.grant_id) != (peer.record.id, peer.grant_id):
                    self.remove(*key)
                elif record != peer.record:
                    self._renew(peer, record)
            for key, record in wanted.items():
                if key not in self._peers:
                    self.add(record)

    def _renew(self, peer: Peer, record: PeerRecord) -> None:
        peer.channel.swap(self._parts.dialer(record))
        peer.record = record

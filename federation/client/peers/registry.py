"""The peers of this gateway, by the name of the remote gateway and the local user."""

import threading
from collections.abc import Callable, Iterable

from federation.client.chain.flow import refused
from federation.client.peers.peer import Peer, PeerFactory, Revocation
from federation.client.transport.connections import Dialer, PeerChannel
from federation.errors import ConflictError, InputError, NotFoundError, Reason, Refusal, unknown_peer
from federation.store.peers import PeerRecord
from federation.suggest import near_matches


class PeerRegistry:
    """Every peer by name and local user. Thread-safe."""

    def __init__(self, factory: PeerFactory, channel: Callable[[Dialer], PeerChannel]) -> None:
        self._factory, self._channel = factory, channel
        self._lock = threading.RLock()
        self._peers: dict[tuple[str, str], Peer] = {}
        self._generation = 0

    @property
    def generation(self) -> int:
        """A number that rises with every change of the registry."""
        return self._generation

    def all(self, user: str | None = None) -> tuple[Peer, ...]:
        """Return the peers of one user or of all, sorted by name and user."""
        peers = sorted(self._peers.copy().items())
        return tuple(peer for _, peer in peers if user is None or peer.user == user)

    def get(self, name: str, user: str | None = None) -> Peer:
        """Return one peer. `user` may be left out if only one user is enrolled there.

        Raises `NotFoundError` with near matches, and `InputError` if `user` is needed.
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
        """Add an enrollment; return the existing peer if `load` has added it already.

        Raises `ConflictError` for a known name and user, or a grant id in use.
        """
        with self._lock:
            known = self._peers.get((record.name, record.user))
            if known is not None and known.record.id == record.id:
                return known
            if known is not None:
                raise ConflictError(f"{record.name} is already enrolled for user {record.user}")
            if any(peer.grant_id == record.grant_id for peer in self._peers.values()):
                raise ConflictError(f"the grant {record.grant_id} is already used by another peer")
            peer = Peer(record, self._factory, self._channel(self._factory.dialer(record)))
            self._peers[record.name, record.user] = peer
            self._generation += 1
        self._factory.on_added(peer)
        return peer

    def remove(self, name: str, user: str) -> Peer:
        """Remove a peer: its calls in flight fail, its connections and state are dropped."""
        with self._lock:
            peer = self.get(name, user)
            del self._peers[name, user]
            self._generation += 1
        peer.close(refused(Refusal(Reason.GRANT_REVOKED, f"the peer {name} was removed from this gateway")))
        self._factory.on_removed(peer)
        return peer

    def renew(self, record: PeerRecord) -> None:
        """Use new credentials for a known peer from its next call on; do nothing if it has them or was removed."""
        with self._lock:
            peer = self._peers.get((record.name, record.user))
            if peer is not None and peer.record.id == record.id and peer.record != record:
                self._renew(peer, record)

    def load(self, records: Iterable[PeerRecord], *, unless_changed_since: int | None = None) -> bool:
        """Bring the registry to the state of the store: add, remove and renew peers.

        Does nothing and returns `False` if `generation` is no longer `unless_changed_since`: the records may then be
        older than the registry.
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
            peer.channel.swap(self._factory.dialer(record))
        peer.record = record
        if swapped:
            peer.on_renewed()
        revoked_at_us = record.revoked_at_us
        if revoked_at_us is not None and peer.mark_revoked(Revocation(revoked_at_us, record.revoked_reason)):
            peer.apply_revocation()


def _dialled_by(record: PeerRecord) -> tuple[str, ...]:
    return record.endpoint, record.gateway, record.certificate_pem, record.key_pem, record.trust_bundle

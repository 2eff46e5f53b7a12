"""Caches, watches and gateways, each with one rule broken."""

from collections.abc import Callable, Generator, Iterable

from federation.cache.entries import CacheBucket, DeliveryDecision, FetchToken, InvalidationReason, Key
from federation.cache.response_cache import Flushed, Hit, Miss, Partition
from federation.client.chain.flow import Flight
from federation.client.watch.events import EventHandler
from federation.server.revocation.leases import LeaseTable, PendingRevocation
from federation.server.revocation.protocol import Act, Step, Store, StoreReceipt, Wait
from federation.v1 import federation_pb2 as pb


class NoFence(Partition[Flight]):
    """Inserts every answer, whenever its call was sent."""

    def _bucket_for_insert(self, token: FetchToken) -> CacheBucket[Flight] | None:
        return self._bucket(token.key)


class NoCheckAtDelivery(Partition[Flight]):
    """Delivers every answer."""

    def decision(self, token: FetchToken) -> DeliveryDecision:
        return DeliveryDecision.DELIVER


class NoRetryAfterAChange(Partition[Flight]):
    """Checks revocation, but not a change of the scope."""

    def decision(self, token: FetchToken) -> DeliveryDecision:
        found = super().decision(token)
        return DeliveryDecision.DELIVER if found is DeliveryDecision.RETRY else found


class LifeFromArrival(Partition[Flight]):
    """Counts the lifetime of an answer from its arrival."""

    def insert(self, token: FetchToken, body: bytes, lease_s: float, filled_by: str = "") -> bool:
        with self._lock:
            elapsed, wall = self._read()
        return super().insert(token._replace(elapsed=elapsed, wall=wall), body, lease_s, filled_by)


class FlightsOutliveEpochs(Partition[Flight]):
    """Keys flights by the query alone: a flush leaves them where the next caller finds them."""

    def flush(self, cause: InvalidationReason, grant_id: str = "", resource: str = "") -> Flushed[Flight]:
        with self._lock:
            kept = {key: flight for bucket in self._buckets() for key, flight in bucket.flights.items()}
        flushed = super().flush(cause, grant_id, resource)
        with self._lock:
            for key, flight in kept.items():
                self._bucket(key).flights.setdefault(key, flight)
        return flushed


class HitsExtend(Partition[Flight]):
    """Extends the lifetime of an entry with every hit."""

    def lookup(
        self, key: Key, join: Callable[[Flight], bool], launch: Callable[[FetchToken], Flight]
    ) -> Hit | Miss[Flight]:
        found = super().lookup(key, join, launch)
        if isinstance(found, Hit):
            with self._lock:
                elapsed, wall = self._read()
                bucket = self._bucket(key)
                bucket._entries[key] = bucket._entries[key]._replace(elapsed=elapsed, wall=wall)
        return found


class FlushKeepsEntries(Partition[Flight]):
    """Increments the epoch but keeps the entries."""

    def flush(self, cause: InvalidationReason, grant_id: str = "", resource: str = "") -> Flushed[Flight]:
        with self._lock:
            kept = [(key, entry) for bucket in self._buckets() for key, entry in bucket._entries.items()]
        flushed = super().flush(cause, grant_id, resource)
        with self._lock:
            for key, entry in kept:
                self._bucket(key).insert(key, entry)
        return flushed


class FlightsStay(Partition[Flight]):
    """Never removes a flight."""

    def remove_flight(self, token: FetchToken, flight: Flight) -> None:
        """Remove nothing."""


class NoFlushWhenRearmed(EventHandler):
    """Keeps its entries when the watch is armed again after a gap."""

    def on_rearmed(self) -> None:
        """Flush nothing."""


class AcksAtOnce(EventHandler):
    """Acknowledges without a flush."""

    def handle(self, event: pb.WatchResponse, now: float) -> pb.WatchAck | None:
        if event.WhichOneof("kind") in {"grant_revoked", "grant_changed"}:
            return pb.WatchAck(event_id=event.event_id)
        return super().handle(event, now)


class LateLeases(LeaseTable):
    """Records a lease after its answer has left."""

    late: tuple[tuple[str, str, int], ...] = ()

    def grant_lease(self, grant_id: str, instance: str, lease_ms: int) -> int:
        self.late = (*self.late, (grant_id, instance, lease_ms))
        return lease_ms

    def record_late(self) -> None:
        """Record the oldest of the leases that were not recorded."""
        first, *rest = self.late
        self.late = tuple(rest)
        super().grant_lease(*first)


class LeasesWithoutMargin(LeaseTable):
    """Records a lease without a margin for clock drift."""

    def grant_lease(self, grant_id: str, instance: str, lease_ms: int) -> int:
        given = super().grant_lease(grant_id, instance, lease_ms)
        if given:
            self._leases[grant_id][instance] -= given / 10_000
        return given


class LeasesForgottenAtRestart(LeaseTable):
    """Assumes no leases after a restart."""

    def begin(self, grant_id: str, watching: Iterable[str], *, final: bool) -> PendingRevocation:
        self._inherited = frozenset()
        return super().begin(grant_id, watching, final=final)


class WatchersNotAwaited(LeaseTable):
    """Awaits only instances with a lease, although a watcher may have a call in flight."""

    def begin(self, grant_id: str, watching: Iterable[str], *, final: bool) -> PendingRevocation:
        return super().begin(grant_id, (), final=final)


def notify_before_refusing(act: Act, leases: LeaseTable) -> Generator[Step, None, None]:
    """Notify the watches before refusing."""
    revocation = leases.begin(act.grant_id, act.watching(), final=False)
    mark = leases.sequence
    act.notify(lambda instance, failed: leases.ack(act.grant_id, instance, mark, failed))
    yield Store(revocation)
    act.refuse()
    while (seconds := revocation.wait_s()) is not None:
        yield Wait(seconds)
    yield StoreReceipt(revocation)

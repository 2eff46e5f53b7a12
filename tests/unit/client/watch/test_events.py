"""The effects of each event of a watch, and their order, with the real cache and without a stream."""

from typing import Any

import pytest

from federation.cache.entries import DeliveryDecision, FetchToken, Key
from federation.cache.response_cache import Hit, Miss, ResponseCache
from federation.client.chain.flow import Flight
from federation.client.watch.events import EventHandler
from federation.client.watch.policy import EventRate
from federation.errors import Reason
from federation.v1 import federation_pb2 as pb
from federation.wire.status import error_detail
from tests.support.clock import ManualClock

GRANT = "grant-1"


class Watched:
    """A handler over a real partition; its calls to `revoke` and `fail` are recorded in order."""

    def __init__(self, most: int = 100) -> None:
        self.time = ManualClock()
        cache: ResponseCache[Flight] = ResponseCache(self.time.clock)
        self.partition = cache.partition("peer-1")
        self.told: list[Any] = []
        self.handler = EventHandler(GRANT, self.partition, revoke=self._revoke, fail=self._fail, rate=EventRate(most))

    def _revoke(self, reason: str) -> None:
        self.told.append(("refused from here on", reason, self.kept()))

    def _fail(self) -> int:
        self.told.append(("calls failed", self.kept()))
        return 3

    def take(self, **kind: Any) -> pb.WatchAck | None:
        """Handle one event, number 7."""
        return self.handler.handle(pb.WatchResponse(event_id=7, **kind), self.time.monotonic_s)

    def fetch(self, resource: str = "tasks") -> FetchToken:
        """Begin to fetch; its flight is under way."""
        found = self.partition.lookup(Key(GRANT, "list", resource, "q"), lambda _: True, lambda _: Flight(1e9))
        assert isinstance(found, Miss)
        return found.token

    def fill(self, *resources: str) -> None:
        """Keep an answer for each resource."""
        for resource in resources:
            token = self.fetch(resource)
            assert self.partition.insert(token, b"rows", 30.0)

    def kept(self) -> int:
        """The number of cached answers."""
        return self.partition.stats().entries

    def hits(self, resource: str) -> bool:
        """Whether a list of the resource is a hit."""
        key = Key(GRANT, "list", resource, "q")
        return isinstance(self.partition.lookup(key, lambda _: True, lambda _: Flight(1e9)), Hit)


@pytest.fixture
def watched() -> Watched:
    """A handler with cached answers for two resources."""
    made = Watched()
    made.fill("tasks", "notes")
    return made


def test_a_revocation_refuses_first_then_drops_then_fails_and_then_acknowledges(watched: Watched) -> None:
    """New calls are refused before the entries are flushed; calls under way fail next; the ack is returned last."""
    ack = watched.take(grant_revoked=pb.WatchGrantRevoked(reason="over"))

    assert watched.told == [("refused from here on", "over", 2), ("calls failed", 0)]
    assert ack == pb.WatchAck(event_id=7, failed_in_flight=3)


def test_a_revocation_fails_calls_under_way(watched: Watched) -> None:
    """An answer that arrives later is neither cached nor delivered; waiters of a shared call get the refusal."""
    token = watched.fetch("memory")
    key = token.key
    found = watched.partition.lookup(key, lambda flight: flight.join(1e9), lambda _: Flight(1e9))
    assert isinstance(found, Miss)

    watched.take(grant_revoked=pb.WatchGrantRevoked())

    assert error_detail(found.flight.result().trailing).reason == Reason.GRANT_REVOKED
    assert not watched.partition.insert(token, b"rows", 30.0)
    assert watched.partition.decision(token) is DeliveryDecision.REFUSE


def test_a_changed_grant_drops_everything_and_asks_again(watched: Watched) -> None:
    """A call that was sent before the event is made once more; the event is acknowledged."""
    token = watched.fetch("memory")

    assert watched.take(grant_changed=pb.WatchGrantChanged()) == pb.WatchAck(event_id=7)
    assert watched.kept() == 0
    assert watched.partition.decision(token) is DeliveryDecision.RETRY


def test_a_changed_resource_drops_its_entries_alone(watched: Watched) -> None:
    """Other entries stay; there is no acknowledgement; an answer under way is delivered and not cached."""
    found = watched.partition.lookup(Key(GRANT, "list", "tasks", "other"), lambda _: True, lambda _: Flight(1e9))
    assert isinstance(found, Miss)
    token = found.token

    assert watched.take(resource_changed=pb.WatchResourceChanged(resource="tasks")) is None
    assert (watched.hits("tasks"), watched.hits("notes")) == (False, True)
    assert watched.partition.decision(token) is DeliveryDecision.DELIVER
    assert not watched.partition.insert(token, b"stale", 30.0)


def test_a_changed_resource_without_a_name_drops_all(watched: Watched) -> None:
    """If a peer does not name the resource, any resource may have changed."""
    assert watched.take(resource_changed=pb.WatchResourceChanged()) is None
    assert watched.kept() == 0


@pytest.mark.parametrize("kind", [{"armed": pb.WatchArmed()}, {"heartbeat": pb.WatchHeartbeat()}, {}])
def test_events_without_effect_flush_nothing(watched: Watched, kind: dict[str, Any]) -> None:
    """Heartbeats, confirmations and kinds of later versions flush nothing."""
    assert watched.take(**kind) is None
    assert (watched.kept(), watched.told) == (2, [])


def test_rearming_drops_everything(watched: Watched) -> None:
    """Events in the gap were missed; an answer that was under way is delivered, but not cached."""
    token = watched.fetch("memory")
    watched.handler.on_rearmed()

    assert watched.kept() == 0
    assert watched.partition.decision(token) is DeliveryDecision.DELIVER
    assert not watched.partition.insert(token, b"stale", 30.0)


def test_within_a_flood_nothing_is_cached() -> None:
    """The flood flushes the cache, and nothing is cached until it is over."""
    watched = Watched(most=4)
    watched.fill("notes")
    for _ in range(5):
        watched.take(resource_changed=pb.WatchResourceChanged(resource="tasks"))

    assert watched.kept() == 0
    assert not watched.partition.insert(watched.fetch("notes"), b"rows", 30.0)

    watched.time.advance(5)
    watched.take(heartbeat=pb.WatchHeartbeat())
    watched.fill("memory")
    assert watched.kept() == 1


def test_heartbeats_count_as_well() -> None:
    """A flood of messages without effect is a flood."""
    watched = Watched(most=4)
    watched.fill("notes")
    for _ in range(5):
        watched.take(heartbeat=pb.WatchHeartbeat())
    assert watched.kept() == 0


def test_a_revocation_within_a_flood_is_a_revocation() -> None:
    """No event is ignored because there are many."""
    watched = Watched(most=1)
    for _ in range(5):
        watched.take(heartbeat=pb.WatchHeartbeat())
    assert watched.take(grant_revoked=pb.WatchGrantRevoked(reason="over")) is not None
    assert (
        watched.partition.decision(watched.partition.fetch_token(Key(GRANT, "list", "t", "q")))
        is DeliveryDecision.REFUSE
    )


def test_losing_the_stream_ends_the_flood_and_drops_nothing() -> None:
    """The suspension ends with the stream; cached entries live as long as their lease."""
    watched = Watched(most=1)
    for _ in range(5):
        watched.take(heartbeat=pb.WatchHeartbeat())
    watched.handler.on_lost()
    watched.fill("notes")
    watched.handler.on_lost()
    assert watched.kept() == 1

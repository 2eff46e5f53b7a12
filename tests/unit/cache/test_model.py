"""The cache against a simple model: a dictionary, two clocks, and a list of flushes."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from federation.cache.entries import DeliveryDecision, FetchToken, InvalidationReason, Key
from federation.cache.response_cache import Hit, Partition, ResponseCache
from tests.support.clock import ManualClock

TTL_S = 30.0
PEERS, GRANTS, RESOURCES = ("p1", "p2"), ("g1", "g2"), ("tasks", "notes")
REFUSING = {InvalidationReason.GRANT_REVOKED, InvalidationReason.PEER_REMOVED}
ASKING = {InvalidationReason.GRANT_CHANGED, InvalidationReason.REFUSED}


@dataclass
class Model:
    """The expected state of a peer's partition: every flush, and every answer that no flush removed."""

    flushes: list[tuple[InvalidationReason, str, str]] = field(default_factory=list)
    kept: dict[Key, "Kept"] = field(default_factory=dict)

    def since(self, sent: "Sent") -> list[InvalidationReason]:
        """Return the reasons of the flushes since a call was sent, and of the final ones before."""
        return [
            reason
            for n, (reason, grant, resource) in enumerate(self.flushes)
            if grant in {"", sent.key.grant_id}
            and resource in {"", sent.key.resource}
            and (n >= sent.flushes_before or reason in REFUSING)
        ]

    def flush(self, reason: InvalidationReason, grant: str, resource: str) -> None:
        """Remove the affected answers, one by one."""
        self.flushes.append((reason, grant, resource))
        for key in list(self.kept):
            if grant in {"", key.grant_id} and resource in {"", key.resource}:
                del self.kept[key]


@dataclass(frozen=True)
class Sent:
    """A call under way; peers added and removed under one id are different models."""

    model: Model
    partition: Partition[object]
    key: Key
    token: FetchToken
    flushes_before: int
    elapsed: float
    wall: float


@dataclass(frozen=True)
class Kept:
    """A cached answer of the model."""

    body: bytes
    sent: Sent
    life: float


class CacheMachine(RuleBasedStateMachine):
    """Random fills, hits, flushes and clocks; after each step cache and model agree."""

    sent = Bundle("sent")

    def __init__(self) -> None:
        super().__init__()
        self.time = ManualClock()
        self.cache: ResponseCache[object] = ResponseCache(self.time.clock, ttl_s=TTL_S)
        self.models = {peer: Model() for peer in PEERS}

    @rule(target=sent, peer=st.sampled_from(PEERS), grant=st.sampled_from(GRANTS), resource=st.sampled_from(RESOURCES))
    def send(self, peer: str, grant: str, resource: str) -> Any:
        """Send a call if no answer is cached."""
        key = Key(grant, "list", resource, "hash")
        partition = self.cache.partition(peer)
        found = partition.lookup(key, lambda _: False, lambda _: object())
        if isinstance(found, Hit):
            return multiple()
        partition.remove_flight(found.token, found.flight)
        model = self.models[peer]
        model.kept.pop(key, None)
        return Sent(model, partition, key, found.token, len(model.flushes), self.time.elapsed_s, self.time.wall_s)

    @rule(call=consumes(sent), lease=st.sampled_from([0.0, 5.0, 30.0, 90.0]), body=st.binary(max_size=4))
    def receive(self, call: Sent, lease: float, body: bytes) -> None:
        """The answer arrives: the flushes since the sending determine decision and insertion."""
        causes = call.model.since(call)
        expected = DeliveryDecision.DELIVER
        if REFUSING & set(causes):
            expected = DeliveryDecision.REFUSE
        elif ASKING & set(causes):
            expected = DeliveryDecision.RETRY
        assert call.partition.decision(call.token) is expected

        life = min(lease, TTL_S)
        entry = Kept(body, call, life)
        should_keep = not causes and self.is_alive(entry)
        assert call.partition.insert(call.token, body, lease) == should_keep
        if should_keep:
            call.model.kept[call.key] = entry

    @rule(
        peer=st.sampled_from(PEERS),
        grant=st.sampled_from(("", *GRANTS)),
        reason=st.sampled_from(
            [
                c
                for c in InvalidationReason
                if c not in {InvalidationReason.PEER_REMOVED, InvalidationReason.GRANT_REVOKED}
            ]
        ),
        resource=st.sampled_from(RESOURCES),
    )
    def flush(self, peer: str, grant: str, reason: InvalidationReason, resource: str) -> None:
        """Flush a grant, a resource or the whole peer."""
        self.do_flush(peer, reason, grant, resource if reason is InvalidationReason.RESOURCE_CHANGED else "")

    @rule(peer=st.sampled_from(PEERS), grant=st.sampled_from(GRANTS))
    def revoke(self, peer: str, grant: str) -> None:
        """A grant is revoked, finally."""
        self.do_flush(peer, InvalidationReason.GRANT_REVOKED, grant, "")

    @rule(peer=st.sampled_from(PEERS))
    def remove(self, peer: str) -> None:
        """Remove a peer; a new peer gets the same id while calls of the old one are under way."""
        self.cache.remove(peer)
        self.models[peer].flush(InvalidationReason.PEER_REMOVED, "", "")
        self.models[peer] = Model()

    @rule(seconds=st.sampled_from([0.001, 1.0, 10.0, 29.0, 30.0]))
    def wait(self, seconds: float) -> None:
        """Time passes on both clocks."""
        self.time.advance(seconds)

    @rule(seconds=st.sampled_from([-40.0, -3.0, 3.0, 40.0]))
    def set_the_wall_clock(self, seconds: float) -> None:
        """Step the wall clock, or let a suspend pass that elapsed time did not count."""
        self.time.wall_s += seconds

    @rule(peer=st.sampled_from(PEERS), grant=st.sampled_from(GRANTS), resource=st.sampled_from(RESOURCES))
    def lookup(self, peer: str, grant: str, resource: str) -> None:
        """A lookup finds exactly the model's answer, with its age."""
        key = Key(grant, "list", resource, "hash")
        partition = self.cache.partition(peer)
        found = partition.lookup(key, lambda _: False, lambda _: object())
        kept = self.models[peer].kept.get(key)
        if kept is None or not self.is_alive(kept):
            assert not isinstance(found, Hit)
            partition.remove_flight(found.token, found.flight)
            self.models[peer].kept.pop(key, None)
        else:
            assert found == Hit(kept.body, self.time.elapsed_s - kept.sent.elapsed, "")

    @invariant()
    def the_counts_are_right(self) -> None:
        """No flight is left, the entries are those of the model, and the total is the sum of the peers."""
        for peer, model in self.models.items():
            stats = self.cache.partition(peer).stats()
            assert stats.flights == 0
            assert stats.entries == sum(self.time.elapsed_s < k.sent.elapsed + k.life for k in model.kept.values())
        assert sum(each.stats().bytes for each in self.cache._partitions.values()) == self.cache._total

    def do_flush(self, peer: str, reason: InvalidationReason, grant: str, resource: str) -> None:
        model = self.models[peer]
        model.flush(reason, grant, resource)
        self.cache.partition(peer).flush(reason, grant, resource)

    def is_alive(self, kept: Kept) -> bool:
        elapsed, wall, sent = self.time.elapsed_s, self.time.wall_s, kept.sent
        over = elapsed >= sent.elapsed + kept.life or wall >= sent.wall + kept.life
        ran_back = wall < sent.wall or wall - sent.wall < elapsed - sent.elapsed - 0.25
        return not over and not ran_back


TestCacheModel = CacheMachine.TestCase
TestCacheModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

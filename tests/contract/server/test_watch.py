"""The serving side of `Watch` over real mutual TLS: who may arm one, what arrives, what ends it."""

import asyncio
from datetime import timedelta
from typing import Any

import grpc
import pytest

from federation.scope.model import Scope
from federation.server.watch.service import MAX_PER_GRANT
from federation.server.watch.subscriptions import MAX_QUEUED, Event, EventType, SubscriptionRegistry, Watcher
from federation.store.grants.model import Grant
from federation.v1 import federation_pb2 as pb
from federation.wire.status import error_detail_of
from tests.support.pki import IDENTITY_FAULTS, Pki
from tests.support.scripted import eventually
from tests.support.server_on_database import TASKS, A, B, DatabaseServer, StartDatabaseServer, WatchClient

QUICK = {"heartbeat_interval_s": 0.15}


async def ended(watch: WatchClient) -> tuple[grpc.StatusCode, str]:
    """Code and reason with which a stream ends."""
    error = await watch.end()
    assert error is not None
    code: Any = error.code()
    return (await code if asyncio.iscoroutine(code) else code), error_detail_of(error).reason


def opened(granting: DatabaseServer, grant: Grant, instance: str = A, **options: Any) -> WatchClient:
    """A stream without a subscription."""
    return WatchClient(granting.stub(grant, **options), instance)


async def test_a_watch_is_armed_by_its_subscription(granting: DatabaseServer) -> None:
    """Metadata comes at once, the armed event after the subscription; ids rise from 1."""
    grant = await granting.grant()
    watch = opened(granting, grant)
    async with asyncio.timeout(2):
        await watch.call.initial_metadata()
    assert granting.coordinator.subscriptions.count(grant.id) == 0
    await watch.arm()
    assert granting.coordinator.subscriptions.watching(grant.id) == {A}

    granting.coordinator.subscriptions.publish(grant.id, Event(EventType.RESOURCE_CHANGED, "tasks"))
    granting.coordinator.subscriptions.publish(grant.id, Event(EventType.RESOURCE_CHANGED, "notes"))

    first, second = await watch.next(), await watch.next()
    assert (first.event_id, first.resource_changed.resource) == (2, "tasks")
    assert (second.event_id, second.resource_changed.resource) == (3, "notes")


async def test_a_watcher_gets_events_of_its_own_grant_only(granting: DatabaseServer) -> None:
    """Events of another grant of the same peer go elsewhere."""
    mine, other = await granting.grant(), await granting.grant()
    watch = await granting.watch(mine)
    granting.coordinator.subscriptions.publish(other.id, Event(EventType.GRANT_CHANGED))
    granting.coordinator.subscriptions.publish(mine.id, Event(EventType.RESOURCE_CHANGED, "notes"))
    assert (await watch.next()).WhichOneof("kind") == "resource_changed"


@pytest.mark.parametrize(
    "first",
    [
        pb.WatchRequest(),
        pb.WatchRequest(heartbeat=pb.WatchHeartbeat()),
        pb.WatchRequest(ack=pb.WatchAck(event_id=1)),
        pb.WatchRequest(subscribe=pb.WatchSubscribe()),
        pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id="A" * 32)),
        pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id="a" * 33)),
        pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id="a" * 31 + "\n")),
    ],
)
async def test_a_stream_that_does_not_begin_with_a_subscription_is_refused(
    granting: DatabaseServer, first: pb.WatchRequest
) -> None:
    """Anything else first, and every malformed instance, is INVALID_REQUEST; nothing is armed."""
    grant = await granting.grant()
    watch = opened(granting, grant)
    await watch.call.write(first)
    assert await ended(watch) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert granting.coordinator.subscriptions.grants == ()
    event = (await granting.audit.seen(1))[-1]
    assert (event.verb, event.outcome, event.grant_id) == ("watch", "invalid", grant.id)


@pytest.mark.parametrize(
    "later",
    [
        pb.WatchRequest(),
        pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id=B)),
        pb.WatchRequest(ack=pb.WatchAck(event_id=2)),
        pb.WatchRequest(ack=pb.WatchAck(event_id=0)),
        pb.WatchRequest(ack=pb.WatchAck(event_id=2**63)),
    ],
)
async def test_a_stream_that_breaks_the_protocol_ends(granting: DatabaseServer, later: pb.WatchRequest) -> None:
    """A second subscription, an empty message, and an ack of what this stream has not sent end it."""
    grant = await granting.grant()
    watch = await granting.watch(grant)
    await watch.call.write(later)
    assert await ended(watch) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    await eventually(lambda: not granting.coordinator.subscriptions.grants)


async def test_garbage_ends_a_stream(granting: DatabaseServer) -> None:
    """Bytes that are no message are a refusal, not an incident."""
    grant = await granting.grant()
    granting.stub(grant)
    raw = granting.channels[-1].stream_stream("/federation.v1.FederationService/Watch")
    call = raw()
    await call.write(b"\xff\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert error_detail_of(error.value).reason == "INVALID_REQUEST"


@pytest.mark.parametrize("fault", ["tag alone", "grant not a uuid"])
async def test_a_certificate_without_a_good_identity_arms_nothing(granting: DatabaseServer, fault: str) -> None:
    """A certificate without a valid identity is refused, as at any call."""
    grant = await granting.grant()
    assert fault in IDENTITY_FAULTS
    watch = opened(granting, grant, leaf=Pki.of(granting.authority).bad_client(fault))
    assert await ended(watch) == (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_INVALID")


async def test_a_certificate_of_no_grant_arms_nothing(granting: DatabaseServer) -> None:
    """A certificate that the grant does not know is GRANT_INVALID, like at any call, and on record."""
    grant = await granting.grant()
    watch = opened(granting, grant, leaf=Pki.of(granting.authority).client(grant.id, "ada"))
    assert await ended(watch) == (grpc.StatusCode.PERMISSION_DENIED, "GRANT_INVALID")
    event = (await granting.audit.seen(1))[-1]
    assert (event.verb, event.outcome, event.reason) == ("watch", "denied", "GRANT_INVALID: unknown serial")
    assert (event.grant_id, event.peer, event.subject) == (grant.id, grant.peer, "ada")
    assert event.source == "127.0.0.1"


async def test_a_revoked_grants_own_certificate_learns_that_it_is_revoked(granting: DatabaseServer) -> None:
    """A watch armed after the refusal gets GRANT_REVOKED, also one whose stream was open but not armed."""
    grant = await granting.grant()
    open_before = opened(granting, grant)
    await open_before.call.initial_metadata()
    await (await granting.revocations.revoke(grant.id)).receipt()

    await open_before.call.write(pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id=A)))

    assert await ended(open_before) == (grpc.StatusCode.PERMISSION_DENIED, "GRANT_REVOKED")
    assert await ended(opened(granting, grant)) == (grpc.StatusCode.PERMISSION_DENIED, "GRANT_REVOKED")
    assert granting.coordinator.subscriptions.grants == ()


async def test_both_sides_get_heartbeats_and_silence_ends_a_stream(start_granting: StartDatabaseServer) -> None:
    """A stream with heartbeats stays open; one without a message for three intervals is closed."""
    granting = await start_granting(**QUICK)
    grant = await granting.grant()
    alive, silent = await granting.watch(grant, A), await granting.watch(grant, B)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await alive.beat()
            assert (await alive.call.read()).HasField("heartbeat")
            beats += 1

    beating = asyncio.create_task(beat())
    assert await ended(silent) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert granting.coordinator.subscriptions.watching(grant.id) == {A}
    beating.cancel()
    assert beats >= 2


async def test_a_stream_that_never_subscribes_ends(start_granting: StartDatabaseServer) -> None:
    """An open stream without a subscription is closed after a timeout."""
    granting = await start_granting(**QUICK)
    assert await ended(opened(granting, await granting.grant())) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )


async def test_a_watch_ends_with_its_certificate(granting: DatabaseServer) -> None:
    """At the certificate's end the stream ends, on a connection that stays open, and not at the next beat only."""
    grant = await granting.grant()
    leaf = await granting.certify(grant.id, ends_in=timedelta(seconds=2))
    watch = await granting.watch(grant, stub=granting.stub(grant, leaf))
    assert await ended(watch) == (grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_INVALID")


async def test_a_watch_ends_with_its_grant(granting: DatabaseServer) -> None:
    """At the grant's end the stream ends as a call would be refused."""
    grant = await granting.grant(expires_at_us=int(granting.coordinator.revocations._clock.now_us()) + 700_000)
    watch = await granting.watch(grant)
    assert await ended(watch) == (grpc.StatusCode.PERMISSION_DENIED, "GRANT_INVALID")


async def test_a_watch_that_the_peer_ends_is_forgotten(granting: DatabaseServer) -> None:
    """Half-closed ends with OK, cancelled ends as well; neither leaves anything behind."""
    grant = await granting.grant()
    polite, rude = await granting.watch(grant, A), await granting.watch(grant, B)
    await polite.call.done_writing()
    assert await polite.end() is None
    rude.call.cancel()
    await eventually(lambda: not granting.coordinator.subscriptions.grants)


async def test_what_waits_reaches_a_peer_that_has_closed_its_side(granting: DatabaseServer) -> None:
    """Events that were queued at the half-close are delivered, in order, and then the stream ends with OK."""
    grant = await granting.grant()
    watch = await granting.watch(grant)
    names = [f"{number}{'x' * 500_000}" for number in range(60)]
    for name in names:  # more than a connection takes in while nobody reads
        granting.coordinator.subscriptions.publish(grant.id, Event(EventType.RESOURCE_CHANGED, name))
    await watch.call.done_writing()
    await eventually(lambda: not granting.coordinator.subscriptions.grants)
    granting.coordinator.subscriptions.publish(grant.id, Event(EventType.RESOURCE_CHANGED, "later"))

    assert [(await watch.next()).resource_changed.resource for _ in names] == names
    assert await watch.end() is None


async def test_a_half_closed_stream_whose_peer_does_not_read_ends_with_an_error(
    start_granting: StartDatabaseServer,
) -> None:
    """Events that cannot be delivered in time end the stream as too slow."""
    granting = await start_granting(**QUICK)
    grant = await granting.grant()
    watch = await granting.watch(grant)
    for number in range(60):
        event = Event(EventType.RESOURCE_CHANGED, f"{number}{'x' * 500_000}")
        granting.coordinator.subscriptions.publish(grant.id, event)
    await watch.call.done_writing()
    await asyncio.sleep(0.5)
    assert await ended(watch) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")


async def test_a_watch_with_a_new_certificate_begins_the_end_of_the_old_one(granting: DatabaseServer) -> None:
    """Arming is a use like any call: the older serial ends 10 minutes later; a stream that never armed is none."""
    grant = await granting.grant()
    old = granting.leaves[grant.id]
    new = await granting.certify(grant.id)
    now_us = granting.coordinator.revocations._clock.now_us()

    def left_s(serial: str) -> float:
        return (granting.grants.require(grant.id).certificates[serial].accepted_until_us - now_us) / 1e6

    await granting.watch(grant, stub=granting.stub(grant, old))
    refused = opened(granting, grant, leaf=new)
    await refused.call.write(pb.WatchRequest())
    await ended(refused)
    assert left_s(old.serial) > 700

    await granting.watch(grant, B, granting.stub(grant, new))
    assert 595 < left_s(old.serial) < 605
    assert left_s(new.serial) > 700


async def test_watches_end_first_when_the_gateway_stops(granting: DatabaseServer) -> None:
    """A stop waits for no watch: streams end with OK at once, and no other one arms."""
    grant = await granting.grant()
    watch = await granting.watch(grant)
    begun = asyncio.get_running_loop().time()
    stopping = asyncio.create_task(granting.server.stop(5))
    assert await watch.end() is None
    await stopping
    assert asyncio.get_running_loop().time() - begun < 2


async def test_only_so_many_watches_a_grant(granting: DatabaseServer) -> None:
    """One more is RATE_LIMITED; another grant's come in, and calls go on."""
    grant, other = await granting.grant(), await granting.grant()
    stub = granting.stub(grant)
    watches = [await granting.watch(grant, f"{number:032x}", stub) for number in range(MAX_PER_GRANT)]
    assert await ended(WatchClient(stub, A)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    await granting.watch(other)
    assert len((await stub.List(TASKS)).rows) == 2
    watches[0].call.cancel()
    await eventually(lambda: granting.coordinator.subscriptions.count(grant.id) < MAX_PER_GRANT)
    await granting.watch(grant, A, stub)


async def test_only_so_many_watches_of_all_grants(granting: DatabaseServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the gateway's limit is RATE_LIMITED, although its grant has no other."""
    monkeypatch.setattr("federation.server.watch.service.MAX_STREAMS", 2)
    grant, other = await granting.grant(), await granting.grant()
    await granting.watch(grant, A)
    await granting.watch(grant, B)
    assert await ended(opened(granting, other)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")


async def test_a_stream_that_subscribes_while_the_gateway_stops_is_not_armed(granting: DatabaseServer) -> None:
    """It ends with OK, like the watches that were armed."""
    watch = opened(granting, await granting.grant())
    await watch.call.initial_metadata()
    await granting.coordinator.watch.close()

    await watch.call.write(pb.WatchRequest(subscribe=pb.WatchSubscribe(instance_id=A)))

    assert await watch.end() is None
    assert granting.coordinator.subscriptions.grants == ()


async def test_a_peer_that_does_not_read_is_dropped_and_others_are_not(granting: DatabaseServer) -> None:
    """A queue that overflows ends its own stream with a hint when to come again."""
    grant = await granting.grant()
    watch = await granting.watch(grant, A)
    for number in range(MAX_QUEUED + 1):
        granting.coordinator.subscriptions.publish(grant.id, Event(EventType.RESOURCE_CHANGED, f"r{number}"))
    assert await ended(watch) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    await eventually(lambda: not granting.coordinator.subscriptions.grants)


async def test_events_of_the_whole_grant_replace_what_they_cover() -> None:
    """While it waits, a change of the grant swallows changes of resources, and a revocation swallows all."""
    told: list[str] = []
    watcher = Watcher("g", A)
    for resource in ("tasks", "notes", "tasks"):
        watcher.offer(Event(EventType.RESOURCE_CHANGED, resource))
    assert [event.text for event in watcher._queue] == ["tasks", "notes"]

    watcher.offer(Event(EventType.GRANT_CHANGED))
    watcher.offer(Event(EventType.RESOURCE_CHANGED, "tasks"))
    assert [event.event_type for event in watcher._queue] == [EventType.GRANT_CHANGED]
    watcher.offer(Event(EventType.GRANT_CHANGED, on_ack=lambda _, __: told.append("second")))
    watcher.offer(Event(EventType.GRANT_CHANGED))
    assert watcher._queue[0].on_ack is not None
    assert len(watcher._queue) == 1

    watcher.offer(Event(EventType.GRANT_REVOKED, "r", lambda _, __: told.append("revoked")))
    watcher.offer(Event(EventType.GRANT_CHANGED, on_ack=lambda _, __: told.append("late")))
    event = await watcher.next()
    assert (event.event_type, len(watcher._queue)) == (EventType.GRANT_REVOKED, 0)
    watcher.ack(watcher.next_event_id(event), 0)
    assert told == ["revoked"]
    assert watcher.ended.done(), "what was revoked has nothing more to hear"


async def test_an_ack_counts_once_and_for_its_own_stream() -> None:
    """The same id on another stream is another event, and twice is once."""
    heard: list[tuple[str, int]] = []
    subscriptions = SubscriptionRegistry(lambda _, __: None)
    first, second = subscriptions.add("g", A), subscriptions.add("g", B)
    first.next_event_id()
    changed = Event(EventType.GRANT_CHANGED, on_ack=lambda instance, failed: heard.append((instance, failed)))
    subscriptions.publish("g", changed)
    event_id = first.next_event_id(await first.next())
    assert event_id == 2
    second.next_event_id()
    second.ack(1, 7)
    first.ack(event_id, 2)
    first.ack(event_id, 2)
    assert heard == [(A, 2)]


async def test_the_last_stream_of_an_instance_tells_that_it_left() -> None:
    """While a second stream of the same cache object is armed, it has not left."""
    left: list[tuple[str, str]] = []
    subscriptions = SubscriptionRegistry(lambda grant, instance: left.append((grant, instance)))
    old, new, other = subscriptions.add("g", A), subscriptions.add("g", A), subscriptions.add("g", B)
    subscriptions.remove(old)
    assert (left, subscriptions.watching("g"), subscriptions.count("g")) == ([], {A, B}, 2)
    subscriptions.remove(new)
    subscriptions.remove(other)
    assert (left, subscriptions.grants) == ([("g", A), ("g", B)], ())


async def test_a_scope_that_closes_everything_still_lets_watch(granting: DatabaseServer) -> None:
    """Watching needs the grant, not a resource."""
    grant = await granting.grant(scope=Scope(("tasks",), excluded_resources=("tasks",)))
    await granting.watch(grant)

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from federation.enrollment.servicer import EnrollmentEvent
from federation.errors import ConflictError, Reason, Refusal
from federation.server.audit.trail import MAX_REFUSALS, AuditTrail, source_of
from federation.store.audit.model import AuditEvent
from federation.store.peers import PeerRecord
from tests.support.server_in_memory import ScriptedWriter


def read(number: int = 0, **changes: Any) -> AuditEvent:
    """An allowed read."""
    return AuditEvent(**{"at_us": number, "verb": "list", "outcome": "ok", "grant_id": "g", **changes})


def denial(**changes: Any) -> AuditEvent:
    """A refused call."""
    defaults = {"outcome": "denied", "reason": "GRANT_INVALID", "source": "10.0.0.1", "resource": "tasks"}
    return read(**{**defaults, **changes})


@pytest.fixture
def writer() -> ScriptedWriter:
    """The table."""
    return ScriptedWriter()


@pytest_asyncio.fixture
async def trail(writer: ScriptedWriter) -> AsyncIterator[AuditTrail]:
    """A running trail with room for four reads."""
    trail = AuditTrail(writer, capacity=4)
    trail.start()
    yield trail
    writer.gate.set()
    writer.fault = None
    await trail.stop()


async def test_events_are_written_in_batches_soon(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """Reads that come together are written together, in their order, well within a second."""
    for number in range(3):
        await trail.record_read(read(number))

    async with asyncio.timeout(1):
        events = await writer.seen(3)

    assert [event.at_us for event in events] == [0, 1, 2]
    assert writer.batches == [3]
    assert trail.waiting == 0


async def test_a_full_queue_holds_a_read_and_then_refuses_it(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """With no place free for 100 ms the read is refused as RESOURCE_EXHAUSTED, and never recorded as served."""
    writer.gate.clear()
    for number in range(4):
        await trail.record_read(read(number))
    loop = asyncio.get_running_loop()
    began = loop.time()

    with pytest.raises(Refusal) as caught:
        await trail.record_read(read(99))

    assert 0.09 <= loop.time() - began < 1
    assert caught.value.reason is Reason.RATE_LIMITED
    assert caught.value.retry_after_s
    writer.gate.set()
    assert [event.at_us for event in await writer.seen(4)] == [0, 1, 2, 3]


async def test_a_place_that_comes_free_in_time_lets_the_read_pass(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """A delayed reply leaves when the current batch is written."""
    writer.gate.clear()
    for number in range(4):
        await trail.record_read(read(number))
    held = asyncio.create_task(trail.record_read(read(4)))
    await writer.begun.wait()
    writer.gate.set()
    await held

    assert len(await writer.seen(5)) == 5


async def test_places_come_back_after_every_batch(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """Ten times the capacity passes when the table keeps up."""
    for number in range(40):
        await trail.record_read(read(number))
        if number % 4 == 3:
            await writer.seen(number + 1)

    assert [event.at_us for event in writer.events] == list(range(40))


async def test_refusals_of_one_source_and_reason_are_one_row(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """Refusals that are alike become one event with a count; differing values become `*`."""
    for resource in ("tasks", "tasks", "notes"):
        trail.record_refusal(denial(resource=resource, query_hash=resource))
    trail.record_refusal(denial(source="10.0.0.2"))
    trail.record_refusal(denial(reason="SCOPE_VIOLATION"))
    trail.record_refusal(denial(grant_id=None))

    events = await writer.seen(6)

    assert [(e.source, e.reason, e.grant_id, e.count) for e in events] == [
        ("10.0.0.1", "GRANT_INVALID", "g", 3),
        ("10.0.0.2", "GRANT_INVALID", "g", 1),
        ("10.0.0.1", "SCOPE_VIOLATION", "g", 1),
        ("10.0.0.1", "GRANT_INVALID", None, 1),
    ]
    assert (events[0].verb, events[0].resource, events[0].query_hash) == ("list", "*", "")


async def test_refusals_of_different_verbs_are_found_by_their_verb(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """Refusals of different verbs are different events, so a filter by verb finds each."""
    for verb in ("list", "search", "list"):
        trail.record_refusal(denial(verb=verb))

    assert [(event.verb, event.count) for event in await writer.seen(2)] == [("list", 2), ("search", 1)]


async def test_an_act_of_this_side_that_failed_has_its_own_row(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """Two peers that could not be added at one moment are both on record, each for its user."""
    for peer, user in (("alpha", "ada"), ("beta", "bob")):
        trail.record_act("peer.add", "error", peer=peer, subject=user, source="admin", reason="EnrollmentError")

    events = await writer.seen(2)

    assert [(event.peer, event.subject, event.count) for event in events] == [("alpha", "ada", 1), ("beta", "bob", 1)]


async def test_refusals_that_differ_in_the_peer_are_no_ones_alone(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """An event for several peers or subjects does not name the first one."""
    for peer in ("alpha", "beta"):
        trail.record_refusal(denial(grant_id=None, peer=peer))

    (event,) = await writer.seen(1)

    assert (event.peer, event.count) == ("*", 2)


async def test_refusals_of_different_subjects_show_mixed_subjects(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """A row that counts refusals of several subjects names none of them."""
    for subject in ("ada", "bob"):
        trail.record_refusal(denial(subject=subject))

    (event,) = await writer.seen(1)

    assert (event.subject, event.count) == ("*", 2)


async def test_a_flood_of_different_refusals_is_bounded_and_counted(
    trail: AuditTrail, writer: ScriptedWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the bound refusals are dropped with a count and one log line; like ones are still counted in."""
    writer.gate.clear()
    for number in range(MAX_REFUSALS + 7):
        trail.record_refusal(denial(source=f"s{number}"))
    trail.record_refusal(denial(source="s0"))

    assert trail.waiting == MAX_REFUSALS
    assert trail.dropped == 7
    assert sum("drops refusals" in line for line in caplog.messages) == 1
    writer.gate.set()
    assert sum(e.count for e in await writer.seen(MAX_REFUSALS + 1)) == MAX_REFUSALS + 1


async def test_dropped_refusals_are_counted_by_their_number(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """A row that counts three refusals and finds no room adds three to the number of dropped refusals."""
    writer.gate.clear()
    for number in range(MAX_REFUSALS):
        trail.record_refusal(denial(source=f"s{number}"))
    trail.record_refusal(denial(source="one more", count=3))

    assert trail.dropped == 3


async def test_a_flood_of_refusals_never_costs_a_read(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """Refusals have their own room: reads pass while thousands of refusals come in."""
    for number in range(5_000):
        trail.record_refusal(denial(source=f"s{number}"))
    await trail.record_read(read(7))

    await writer.seen(MAX_REFUSALS + 1)

    assert 7 in [event.at_us for event in writer.events]


async def test_a_failing_table_is_logged_once_and_loses_nothing(
    trail: AuditTrail, writer: ScriptedWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """While writes fail, events stay queued; one line reports the failure, one its end, and every event is written."""
    caplog.set_level(logging.INFO)
    writer.fault = OSError("disk full\nand more")
    await trail.record_read(read(1))
    trail.record_refusal(denial())
    while writer.attempts < 3:
        await asyncio.sleep(0.02)
        trail.record_refusal(denial())
    assert trail.failing
    assert trail.waiting == 2

    writer.fault = None
    events = await writer.seen(3)

    assert events[0].at_us == 1
    assert not trail.failing
    ours = [line for line in caplog.messages if "audit" in line]
    assert len(ours) == 2
    assert "disk full" in ours[0]
    assert "and more" not in ours[0]
    assert "again" in ours[1]


async def test_refusals_during_a_write_that_fails_are_counted_with_those_that_were_in_it(
    trail: AuditTrail, writer: ScriptedWriter
) -> None:
    """Refusals that arrive during a batch join those that the batch returns."""
    writer.gate.clear()
    trail.record_refusal(denial())
    await writer.begun.wait()
    trail.record_refusal(denial())
    trail.record_refusal(denial(source="10.0.0.2"))

    writer.fault = OSError("disk full")
    writer.gate.set()
    while not trail.failing:  # noqa: ASYNC110 - the failure is no event
        await asyncio.sleep(0)
    writer.fault = None

    assert [(e.source, e.count) for e in await writer.seen(3)] == [("10.0.0.1", 2), ("10.0.0.2", 1)]


async def test_stop_writes_what_waits_and_shuts_the_door(writer: ScriptedWriter) -> None:
    """Everything queued before `stop` is written by it; a read afterwards is refused."""
    trail = AuditTrail(writer)
    trail.start()
    await trail.record_read(read(1))
    trail.record_refusal(denial())

    await trail.stop()

    assert len(writer.events) == 2
    with pytest.raises(Refusal):
        await trail.record_read(read(2))


async def test_refusals_survive_the_cancellation_of_the_writer(
    writer: ScriptedWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusals of a batch whose write is cancelled by `stop` are still counted as unwritten."""
    writer.gate.clear()
    trail = AuditTrail(writer)
    trail.start()
    trail.record_refusal(denial())
    await writer.begun.wait()

    await trail.stop(0.0)

    assert trail.waiting == 1
    assert "the audit trail stopped with 1 events unwritten" in caplog.text


async def test_a_read_that_is_refused_while_stopping_gives_its_permit_back(writer: ScriptedWriter) -> None:
    """Refused reads take no place in the queue, however many come after `stop`."""
    trail = AuditTrail(writer, capacity=2)
    trail.start()
    await trail.stop()

    for number in range(2):
        with pytest.raises(Refusal):
            await trail.record_read(read(number))

    assert not trail._places.locked()


async def test_stop_ends_in_time_when_the_table_hangs_or_fails(
    writer: ScriptedWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """A table that never answers, or always fails, holds `stop` up only for the time given; the loss is logged."""
    for hangs in (True, False):
        writer.fault = None if hangs else OSError("gone")
        if hangs:
            writer.gate.clear()
        trail = AuditTrail(writer)
        trail.start()
        await trail.record_read(read(1))

        async with asyncio.timeout(2):
            await trail.stop(0.3)

        writer.gate.set()
    assert sum("stopped with 1 events unwritten" in line for line in caplog.messages) == 2


async def test_acts_are_recorded_and_refused_ones_counted(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """An act that was done has its own row even when the queue of reads is full; refused ones are aggregated."""
    writer.gate.clear()
    for number in range(4):
        await trail.record_read(read(number))
    trail.record_act("revoke", grant_id="g", peer="home.example", subject="ada", reason="left the company")
    for _ in range(3):
        trail.record_act("enroll", "denied", source="10.0.0.9", reason="unknown token")
    writer.gate.set()

    events = await writer.seen(8)

    acts = {event.verb: event for event in events if event.verb != "list"}
    assert (acts["revoke"].outcome, acts["revoke"].reason, acts["revoke"].count) == ("ok", "left the company", 1)
    assert (acts["enroll"].grant_id, acts["enroll"].source, acts["enroll"].count) == (None, "10.0.0.9", 3)
    assert acts["revoke"].at_us > 1_700_000_000_000_000


async def test_an_enrollment_is_an_act(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """The hook of the enrollment service maps its event, with an address instead of gRPC's name of it."""
    await trail.record_enrollment(EnrollmentEvent("enroll", "ok", "", "ipv4:10.0.0.9:4711", "g", "home.example", "ada"))
    await trail.record_enrollment(EnrollmentEvent("enroll", "denied", "unknown token", "ipv6:%5B::1%5D:4711"))

    done, refused = await writer.seen(2)

    assert (done.grant_id, done.peer, done.subject, done.source) == ("g", "home.example", "ada", "10.0.0.9")
    assert (refused.grant_id, refused.reason, refused.source) == (None, "unknown token", "::1")


async def test_an_automatic_renewal_is_an_act_of_the_gateway(trail: AuditTrail, writer: ScriptedWriter) -> None:
    """The row names grant, peer and local user, and a failed renewal the reason of the peer or the kind of error."""
    renewed = PeerRecord(
        id="p",
        name="work.example",
        user="ada",
        gateway="work.example",
        endpoint="127.0.0.1:7443",
        grant_id="g",
        subject="ada.l",
        certificate_pem="",
        key_pem="",
        trust_bundle="",
        created_at_us=0,
    )
    trail.record_peer_act("peer.renew", renewed, source="gateway")
    trail.record_peer_act("peer.renew", renewed, Refusal(Reason.GRANT_INVALID, "no"), source="gateway")
    trail.record_peer_act("peer.renew", renewed, ConflictError("renewed concurrently"), source="gateway")

    done, failed, lost = await writer.seen(3)

    assert (done.verb, done.outcome, done.reason) == ("peer.renew", "ok", "")
    assert (failed.verb, failed.outcome, failed.reason) == ("peer.renew", "error", "GRANT_INVALID")
    assert (lost.outcome, lost.reason) == ("error", "ConflictError")
    for event in (done, failed, lost):
        assert (event.grant_id, event.peer, event.subject, event.source) == ("g", "work.example", "ada", "gateway")


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[fe80::1%25eth0]:4711", "fe80::1%eth0"),
        ("unix:", "unix"),
        ("::1", "::1"),
        ("127.0.0.1", "127.0.0.1"),
        ("", ""),
    ],
)
async def test_a_source_is_an_address_without_its_port(peer: str, source: str) -> None:
    """Each form in which gRPC names a peer becomes what an operator looks up."""
    assert source_of(peer) == source

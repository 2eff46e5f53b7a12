"""The counters of the calls that a gateway answered."""

import threading

from federation.server.call_stats import CallCounters, GrantUse
from federation.telemetry.spans import OutcomeName
from tests.support.clock import ManualClock

GRANT = "grant-1"


def test_nothing_is_claimed_before_the_first_call() -> None:
    """No request, no instant, and an unknown grant was never used."""
    counters = CallCounters(ManualClock().clock)

    assert counters.totals() == ({}, None)
    assert counters.of(GRANT) == GrantUse(0, 0, None, "")


def test_calls_are_counted_by_verb_and_outcome_and_by_grant() -> None:
    """A call without a known grant adds to the totals alone; the last instant is that of the last call."""
    clock = ManualClock(wall=1_800_000_000.0)
    counters = CallCounters(clock.clock)
    counters.record("list", OutcomeName.OK, grant_id=GRANT)
    counters.record("get", OutcomeName.NOT_FOUND, grant_id=GRANT)
    counters.record("list", OutcomeName.OK, grant_id=GRANT)
    clock.advance(2)
    counters.record("list", OutcomeName.DENIED, reason="CERTIFICATE_INVALID")

    totals = counters.totals()
    assert dict(totals.requests) == {("get", "not_found"): 1, ("list", "denied"): 1, ("list", "ok"): 2}
    assert list(totals.requests) == sorted(totals.requests)
    assert totals.last_request_us == 1_800_000_002_000_000
    assert counters.of(GRANT) == GrantUse(3, 0, None, "")


def test_the_last_denial_of_a_grant_stays_with_its_reason() -> None:
    """Refusals for the scope and for the rate are denials; what comes after them changes neither instant nor reason."""
    clock = ManualClock(wall=1_800_000_000.0)
    counters = CallCounters(clock.clock)
    counters.record("list", OutcomeName.DENIED, grant_id=GRANT, reason="SCOPE_VIOLATION")
    clock.advance(1)
    counters.record("list", OutcomeName.RATE_LIMITED, grant_id=GRANT, reason="RATE_LIMITED")
    clock.advance(1)
    counters.record("list", OutcomeName.OK, grant_id=GRANT)
    counters.record("list", OutcomeName.INVALID, grant_id=GRANT, reason="INVALID_REQUEST")
    counters.record("list", OutcomeName.ERROR, grant_id=GRANT, reason="INTERNAL")

    assert counters.of(GRANT) == GrantUse(5, 2, 1_800_000_001_000_000, "RATE_LIMITED")
    assert counters.of("another") == GrantUse(0, 0, None, "")


def test_totals_do_not_move_once_they_were_read() -> None:
    """A snapshot of the counters is of one moment."""
    counters = CallCounters(ManualClock().clock)
    counters.record("list", OutcomeName.OK)
    before = counters.totals()
    counters.record("list", OutcomeName.OK)

    assert dict(before.requests) == {("list", "ok"): 1}


def test_no_call_is_lost_between_threads() -> None:
    """Eight threads count at once, and every call is there, in the totals and at the grant."""
    counters = CallCounters()

    def count() -> None:
        for _ in range(2_000):
            counters.record("list", OutcomeName.DENIED, grant_id=GRANT, reason="SCOPE_VIOLATION")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert dict(counters.totals().requests) == {("list", "denied"): 16_000}
    assert (counters.of(GRANT).requests, counters.of(GRANT).denials) == (16_000, 16_000)

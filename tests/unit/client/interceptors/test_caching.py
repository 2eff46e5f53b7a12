"""The caching interceptor as a flow: the real runner steps it, the test is wire, clock and other callers."""

from typing import Any

import grpc
import pytest

from federation.cache.entries import InvalidationReason, Key
from federation.cache.response_cache import MAX_DETACHED, Miss
from federation.client.chain.flow import Cancelled, Flight, Join, Outcome, compose, refused
from federation.client.chain.runner import FlowRunner
from federation.client.interceptors.caching import (
    CACHEABLE_VERBS,
    CachingInterceptor,
    fail_in_flight,
    lease_s,
)
from federation.errors import Reason, Refusal
from federation.wire.requests import query_hash
from federation.wire.status import error_detail, refusal_status
from federation.wire.verbs import STREAMING_VERBS, VERB_BY_NAME
from tests.support.manual_driver import ManualChain, ScriptedSink, ids, make_call, rows


def from_peer(reason: Reason) -> Outcome:
    """A refusal as the peer itself sends it."""
    code, details, trailing = refusal_status(Refusal(reason, "no"))
    return Outcome(code, details=details, trailing=trailing)


def reason_of(run: FlowRunner) -> str:
    """The reason for which a call was refused."""
    assert run.outcome is not None
    assert not run.outcome.ok
    return error_detail(run.outcome.trailing).reason


@pytest.fixture
def chain() -> ManualChain:
    """One peer's caching, without callers."""
    return ManualChain()


def test_every_verb_is_kept_shared_or_not_by_its_entry_in_the_table() -> None:
    """List and Get are cached; Search and Capabilities never are; Watch passes; there is no other verb."""
    assert set(CACHEABLE_VERBS) == {"list", "get"}
    assert set(VERB_BY_NAME) - set(CACHEABLE_VERBS) - STREAMING_VERBS == {"search", "capabilities"}


def test_the_second_call_is_a_hit_without_the_wire(chain: ManualChain) -> None:
    """An identical call is answered in its first step, tagged, with the seconds since the first was sent."""
    first = chain.fetch(make_call(), rows("t1"))
    chain.driver.advance(3)
    run = chain.start(make_call())

    assert run.done
    assert first is not None
    assert (first.cached, first.age_s) == (False, 0.0)
    assert run.outcome == Outcome(grpc.StatusCode.OK, first.body, cached=True, age_s=3.0)
    assert len(chain.wires) == 1


class Trace:
    """A span that knows its name."""

    def traceparent(self) -> str:
        return "00-aa-bb-01"

    def add_event(self, name: str, attributes: Any) -> None:
        raise NotImplementedError


def test_a_hit_names_the_span_that_filled_it(chain: ManualChain) -> None:
    """`filled_by` is the `traceparent` of the call on the wire, not of the hit."""
    chain.fetch(make_call(trace=Trace()), rows("t1"))

    hit = chain.start(make_call()).outcome
    assert hit is not None
    assert hit.filled_by == "00-aa-bb-01"


@pytest.mark.parametrize("verb", ["search", "capabilities", "an unknown one"])
def test_other_verbs_are_never_kept_nor_shared(chain: ManualChain, verb: str) -> None:
    """Two identical calls of a verb that is not in the table are two calls, at the same time or in a row."""
    both = [chain.start(make_call(verb)) for _ in range(2)]
    for wire in list(chain.wires):
        wire.answer(rows("t1"))
    third = chain.start(make_call(verb))

    assert len(chain.wires) == 3
    assert all(run.outcome is not None and not run.outcome.cached for run in both)
    assert not third.done
    assert chain.partition.stats().misses == 0


@pytest.mark.parametrize("lease_ms", [None, 0, "", "-5", "1e9", "30 000", "0x10", "٣٠٠٠٠", "9" * 40, "³"])
def test_without_a_readable_lease_nothing_is_kept(chain: ManualChain, lease_ms: Any) -> None:
    """An absent lease, zero, and anything but plain digits caches nothing."""
    chain.fetch(make_call(), rows("t1", lease_ms=lease_ms))

    assert not chain.start(make_call()).done


def test_a_lease_is_read_in_milliseconds() -> None:
    """The header counts milliseconds."""
    assert lease_s(rows(lease_ms="1500").trailing) == 1.5
    assert lease_s(rows(lease_ms="000").trailing) == 0.0
    assert lease_s((("mosaic-lease-ms", b"30000"),)) == 0.0


@pytest.mark.parametrize(
    "answer",
    [
        *(from_peer(reason) for reason in Reason),
        Outcome(grpc.StatusCode.UNAVAILABLE, trailing=rows().trailing),
        Outcome(grpc.StatusCode.OK, b"\xff not a message", trailing=rows().trailing),
    ],
    ids=[*(reason.value for reason in Reason), "an error with a lease", "an unreadable answer"],
)
def test_nothing_failed_denied_or_unreadable_is_kept(chain: ManualChain, answer: Outcome) -> None:
    """Only a good, readable answer is cached."""
    assert chain.fetch(make_call(), answer) == answer

    assert chain.partition.stats().entries == 0


def test_get_is_kept_like_list(chain: ManualChain) -> None:
    """A Get is a hit the second time, and does not answer a List of the same bytes."""
    chain.fetch(make_call("get"), rows("t1"))

    assert chain.start(make_call("get")).done
    assert not chain.start(make_call("list")).done


def test_an_answer_that_is_long_under_way_lives_from_its_sending(chain: ManualChain) -> None:
    """29 s on the way leave 1 s of life."""
    chain.start(make_call())
    chain.driver.advance(29)
    chain.wires[0].answer(rows("t1"))

    assert chain.start(make_call()).done
    chain.driver.advance(1)
    assert not chain.start(make_call()).done


# -- single flight


def test_identical_calls_share_one_flight(chain: ManualChain) -> None:
    """Five callers at the same time make one call, and each gets the answer, not as a hit."""
    runs = [chain.start(make_call()) for _ in range(5)]
    assert len(chain.wires) == 1

    chain.wires[0].answer(rows("t1"))

    assert [ids(run.outcome) for run in runs] == [["t1"]] * 5
    assert not any(run.outcome.cached for run in runs if run.outcome)
    assert chain.partition.stats().flights == 0


def test_different_calls_do_not_share(chain: ManualChain) -> None:
    """Another query, resource or grant has a flight of its own."""
    for call in (make_call(), make_call(request=b"other"), make_call(resource="notes"), make_call(grant_id="grant-2")):
        chain.start(call)

    assert len(chain.wires) == 4


def test_errors_reach_every_waiter_and_no_later_caller(chain: ManualChain) -> None:
    """A failed flight fails all its waiters; the next caller starts a new one."""
    runs = [chain.start(make_call()) for _ in range(3)]
    chain.wires[0].answer(from_peer(Reason.RATE_LIMITED))

    assert [reason_of(run) for run in runs] == ["RATE_LIMITED"] * 3
    assert not chain.start(make_call()).done
    assert len(chain.wires) == 2


def test_a_leader_that_leaves_does_not_take_the_others_along(chain: ManualChain) -> None:
    """Cancelling the leader ends its wait only."""
    leader, follower = chain.start(make_call()), chain.start(make_call())
    leader.cancel()
    assert isinstance(leader.error, Cancelled)
    assert not chain.wires[0].cancelled

    chain.wires[0].answer(rows("t1"))

    assert ids(follower.outcome) == ["t1"]
    assert chain.start(make_call()).done


def test_the_last_waiter_to_leave_cancels_the_call(chain: ManualChain) -> None:
    """When every waiter has left, the wire call is cancelled, nothing remains, and the next caller starts a new one."""
    runs = [chain.start(make_call()) for _ in range(3)]
    for run in runs:
        assert not chain.wires[0].cancelled
        run.cancel()

    assert chain.wires[0].cancelled
    assert chain.partition.stats().flights == 0
    assert not chain.start(make_call()).done
    assert len(chain.wires) == 2


def test_a_follower_keeps_its_own_shorter_deadline(chain: ManualChain) -> None:
    """A follower with less time ends at its deadline; the leader goes on."""
    now = chain.driver.time.monotonic_s
    leader, follower = chain.start(make_call(deadline=now + 2)), chain.start(make_call(deadline=now + 0.5))
    chain.driver.advance(0.5)
    assert reason_of(follower) == "PEER_TIMEOUT"
    assert not leader.done

    chain.wires[0].answer(rows("t1"))
    assert ids(leader.outcome) == ["t1"]


def test_followers_with_time_left_ask_again_together(chain: ManualChain) -> None:
    """A leader's short budget ends only the leader: one more call serves all who have more time."""
    now = chain.driver.time.monotonic_s
    leader = chain.start(make_call(deadline=now + 0.5))
    patient = [chain.start(make_call(deadline=now + 1.5 + n / 10)) for n in range(5)]
    assert chain.wires[0].call.deadline == now + 0.5

    chain.driver.advance(0.5)

    assert reason_of(leader) == "PEER_TIMEOUT"
    assert not any(run.done for run in patient)
    assert [wire.call.deadline - now for wire in chain.wires[1:]] == [pytest.approx(1.9)]
    chain.wires[1].answer(rows("t1"))
    assert [ids(run.outcome) for run in patient] == [["t1"]] * 5


def test_a_second_leaders_short_budget_ends_no_other_wait(chain: ManualChain) -> None:
    """A retrying waiter joins only a flight that lasts as long as itself; its own deadline still counts."""
    now = chain.driver.time.monotonic_s
    chain.start(make_call(deadline=now + 0.5))
    patient = chain.start(make_call(deadline=now + 3))
    middling = chain.start(make_call(deadline=now + 1))
    chain.driver.advance(0.5)
    chain.driver.advance(0.5)
    assert reason_of(middling) == "PEER_TIMEOUT"
    assert not patient.done

    chain.driver.advance(2)

    assert reason_of(patient) == "PEER_TIMEOUT"
    assert chain.partition.stats().flights == 0


def test_a_follower_asks_again_once_only(chain: ManualChain) -> None:
    """After the second timeout there is no third call."""
    now = chain.driver.time.monotonic_s
    chain.start(make_call(deadline=now + 0.5))
    follower = chain.start(make_call(deadline=now + 2))
    chain.wires[0].answer(from_peer(Reason.PEER_TIMEOUT))
    chain.wires[1].answer(from_peer(Reason.PEER_TIMEOUT))

    assert reason_of(follower) == "PEER_TIMEOUT"
    assert len(chain.wires) == 2


def test_a_follower_without_time_left_does_not_ask_again(chain: ManualChain) -> None:
    """With a few milliseconds left there is no retry: the timeout is delivered."""
    now = chain.driver.time.monotonic_s
    chain.start(make_call(deadline=now + 0.5))
    follower = chain.start(make_call(deadline=now + 0.505))
    chain.driver.advance(0.5)

    assert reason_of(follower) == "PEER_TIMEOUT"
    assert len(chain.wires) == 1


def test_a_retry_may_find_the_answer_cached(chain: ManualChain) -> None:
    """If another caller filled the cache meanwhile, the retry is a hit."""
    now = chain.driver.time.monotonic_s
    chain.start(make_call(deadline=now + 0.5))
    follower = chain.start(make_call(deadline=now + 2))
    token = chain.partition.fetch_token(make_call_key())
    chain.partition.insert(token, rows("t1").body, 30)

    chain.driver.advance(0.5)

    assert follower.outcome is not None
    assert follower.outcome.cached


def make_call_key() -> Key:
    """The key of `make_call()`."""
    call = make_call()
    return Key(call.grant_id, call.verb, call.resource, query_hash(call.request))


def test_an_interrupted_leader_makes_the_others_ask_again(chain: ManualChain) -> None:
    """Ctrl-C in the sending thread ends that caller; its followers make a call of their own."""

    class Interrupted(BaseException):
        pass

    leader, follower = chain.start(make_call()), chain.start(make_call())
    wire = chain.wires[0]
    assert wire.suspension.claim()
    wire.runner.resume(wire.runner._flow.throw, Interrupted())

    assert leader.done
    assert len(chain.wires) == 2
    chain.wires[1].answer(rows("t1"))
    assert ids(follower.outcome) == ["t1"]


def test_a_bug_in_the_chain_reaches_every_waiter(chain: ManualChain) -> None:
    """An exception of an inner interceptor is raised in each waiter, and leaves no flight behind."""
    runs = [chain.start(make_call()) for _ in range(2)]
    wire = chain.wires[0]
    assert wire.suspension.claim()
    wire.runner.resume(wire.runner._flow.throw, ZeroDivisionError("a bug"))

    assert [type(run.error) for run in runs] == [ZeroDivisionError] * 2
    assert chain.partition.stats().flights == 0


# -- what is looked at again on delivery


def test_an_answer_after_a_revocation_is_delivered_to_no_caller(chain: ManualChain) -> None:
    """Leader and followers of an answer that was under way are refused, and nothing is cached."""
    runs = [chain.start(make_call()) for _ in range(3)]
    chain.partition.flush(InvalidationReason.GRANT_REVOKED, "grant-1")
    chain.wires[0].answer(rows("t1"))

    assert [reason_of(run) for run in runs] == ["GRANT_REVOKED"] * 3
    assert all(error_detail(run.outcome.trailing).local for run in runs if run.outcome)
    assert chain.partition.stats().entries == 0


@pytest.mark.parametrize("verb", ["search", "capabilities"])
def test_uncached_calls_are_refused_as_well(chain: ManualChain, verb: str) -> None:
    """A search that was under way when the grant was revoked is not delivered."""
    run = chain.start(make_call(verb))
    chain.partition.flush(InvalidationReason.GRANT_REVOKED, "grant-1")
    chain.wires[0].answer(rows("t1"))

    assert reason_of(run) == "GRANT_REVOKED"


def test_a_revocation_fails_flights_at_once(chain: ManualChain) -> None:
    """`fail_in_flight` fails every waiter now and cancels the wire call."""
    runs = [chain.start(make_call()) for _ in range(3)]

    fail_in_flight(chain.partition.flush(InvalidationReason.GRANT_REVOKED, "grant-1"))

    assert [reason_of(run) for run in runs] == ["GRANT_REVOKED"] * 3
    assert chain.wires[0].cancelled


@pytest.mark.parametrize("verb", ["list", "search"])
def test_a_changed_scope_asks_again_once(chain: ManualChain, verb: str) -> None:
    """An answer of the old scope is not delivered: the call is made again, and that answer is delivered."""
    runs = [chain.start(make_call(verb)) for _ in range(2)]
    old = list(chain.wires)
    chain.partition.flush(InvalidationReason.GRANT_CHANGED, "grant-1")
    for wire in old:
        wire.answer(rows("old"))
    new = [wire for wire in chain.wires if wire not in old]
    assert not any(run.done for run in runs)
    for wire in new:
        wire.answer(rows("new"))

    assert [ids(run.outcome) for run in runs] == [["new"]] * 2
    assert len(new) == (1 if verb in CACHEABLE_VERBS else 2)


def test_a_scope_that_changes_twice_is_refused(chain: ManualChain) -> None:
    """A second change during the retry refuses: no answer of an old scope, and no third call."""
    run = chain.start(make_call())
    for n in range(2):
        chain.partition.flush(InvalidationReason.GRANT_CHANGED, "grant-1")
        chain.wires[n].answer(rows("old"))

    assert reason_of(run) == "GRANT_INVALID"
    assert run.outcome is not None
    assert error_detail(run.outcome.trailing).retry_after_s == 0
    assert len(chain.wires) == 2


@pytest.mark.parametrize("late_s", [1, 1.5])
def test_a_changed_scope_does_not_outlast_the_deadline(chain: ManualChain, late_s: float) -> None:
    """With the budget used up there is no second call, and no answer of the old scope."""
    now = chain.driver.time.monotonic_s
    run = chain.start(make_call(deadline=now + 1))
    chain.partition.flush(InvalidationReason.GRANT_CHANGED, "grant-1")
    chain.driver.time.advance(late_s)
    chain.wires[0].answer(rows("old"))

    assert reason_of(run) == "PEER_TIMEOUT"
    assert len(chain.wires) == 1


@pytest.mark.parametrize(
    ("cause", "grant", "resource"),
    [
        (InvalidationReason.ROTATION, "", ""),
        (InvalidationReason.RESOURCE_CHANGED, "grant-1", "tasks"),
        (InvalidationReason.WATCH_REARMED, "", ""),
    ],
    ids=["rotation", "resource_changed", "watch_rearmed"],
)
def test_other_flushes_deliver_but_do_not_keep(
    chain: ManualChain, cause: InvalidationReason, grant: str, resource: str
) -> None:
    """An answer from before a rotation or a change of rows is delivered to its callers, and not cached."""
    runs = [chain.start(make_call()) for _ in range(2)]
    chain.partition.flush(cause, grant, resource)
    later = chain.start(make_call())
    chain.wires[0].answer(rows("old"))

    assert [ids(run.outcome) for run in runs] == [["old"]] * 2
    assert not later.done
    assert len(chain.wires) == 2
    assert chain.partition.stats().entries == 0


def test_errors_are_delivered_whatever_was_flushed(chain: ManualChain) -> None:
    """An error holds no rows: it is delivered also after a change of scope or a revocation."""
    first, second = chain.start(make_call()), chain.start(make_call("search"))
    chain.partition.flush(InvalidationReason.GRANT_REVOKED, "grant-1")
    for wire in list(chain.wires):
        wire.answer(refused(Refusal(Reason.PEER_UNREACHABLE, "gone")))

    assert [reason_of(run) for run in (first, second)] == ["PEER_UNREACHABLE"] * 2


def test_the_end_of_a_watch_is_passed_on_as_it_is(chain: ManualChain) -> None:
    """A stream's end is not checked, and does not reopen the stream."""
    run = chain.start(make_call("watch"))
    chain.partition.flush(InvalidationReason.GRANT_CHANGED, "grant-1")
    chain.wires[0].answer(Outcome(grpc.StatusCode.OK))

    assert run.outcome == Outcome(grpc.StatusCode.OK)
    assert len(chain.wires) == 1


# -- what the peer says of the grant


@pytest.mark.parametrize("verb", ["list", "search", "watch"])
@pytest.mark.parametrize("reason", [Reason.GRANT_REVOKED, Reason.GRANT_INVALID, Reason.CERTIFICATE_INVALID])
def test_a_peer_that_refuses_the_grant_flushes_it(chain: ManualChain, reason: Reason, verb: str) -> None:
    """The peer's refusal of the grant flushes its entries, and is delivered unchanged."""
    chain.fetch(make_call(), rows("t1"))
    chain.fetch(make_call(grant_id="grant-2"), rows("t2"))
    answer = from_peer(reason)

    assert chain.fetch(make_call(verb, b"another"), answer) == answer

    query = ("list", "tasks", query_hash(b"query"))
    assert chain.partition.peek(Key("grant-1", *query)) is None
    assert chain.partition.peek(Key("grant-2", *query)) is not None


def test_a_peer_that_says_revoked_cuts_the_others(chain: ManualChain) -> None:
    """Other calls of that grant under way fail at once."""
    others = [chain.start(make_call(request=b"other")) for _ in range(2)]
    run = chain.start(make_call())
    chain.wires[1].answer(from_peer(Reason.GRANT_REVOKED))

    assert reason_of(run) == "GRANT_REVOKED"
    assert [reason_of(other) for other in others] == ["GRANT_REVOKED"] * 2
    assert chain.wires[0].cancelled


def test_a_peer_that_says_invalid_makes_the_others_ask_again(chain: ManualChain) -> None:
    """Answers to earlier calls may not be valid any more; the peer's new answer decides."""
    other = chain.start(make_call(request=b"other"))
    chain.start(make_call())
    chain.wires[1].answer(from_peer(Reason.GRANT_INVALID))
    chain.wires[0].answer(rows("old"))
    chain.wires[2].answer(from_peer(Reason.GRANT_INVALID))

    assert reason_of(other) == "GRANT_INVALID"


@pytest.mark.parametrize(
    "answer",
    [
        refused(Refusal(Reason.CERTIFICATE_INVALID, "own certificate expired")),
        from_peer(Reason.SCOPE_VIOLATION),
        from_peer(Reason.ROW_NOT_FOUND),
        from_peer(Reason.RATE_LIMITED),
        from_peer(Reason.INTERNAL),
        refused(Refusal(Reason.CIRCUIT_OPEN, "resting")),
    ],
    ids=["own certificate", "scope", "not found", "rate", "internal", "open circuit"],
)
def test_other_errors_flush_nothing(chain: ManualChain, answer: Outcome) -> None:
    """Errors that do not concern the grant, and local errors, leave the cache unchanged."""
    chain.fetch(make_call(), rows("t1"))
    chain.fetch(make_call(request=b"another"), answer)

    assert chain.start(make_call()).done
    assert chain.partition.stats().flushes == 0


# -- flights that run on


def test_a_flight_may_run_on_after_its_callers_budget(chain: ManualChain) -> None:
    """A detachable call ends at its budget; its flight runs on to twice that and fills the cache."""
    now = chain.driver.time.monotonic_s
    run = chain.start(make_call(deadline=now + 2, detach=True))
    assert chain.wires[0].call.deadline == now + 4
    chain.driver.advance(2)
    assert reason_of(run) == "PEER_TIMEOUT"
    assert not chain.wires[0].cancelled
    assert chain.partition.stats().detached == 1

    chain.driver.advance(1)
    chain.wires[0].answer(rows("t1"))

    assert chain.start(make_call()).done
    assert chain.partition.stats().detached == 0


def test_a_detached_flight_may_be_joined(chain: ManualChain) -> None:
    """A caller that joins while it runs on gets its answer, and leaving does not end it."""
    now = chain.driver.time.monotonic_s
    chain.start(make_call(deadline=now + 2, detach=True))
    chain.driver.advance(2)
    joined, left = chain.start(make_call()), chain.start(make_call())
    left.cancel()
    assert len(chain.wires) == 1
    chain.wires[0].answer(rows("t1"))

    assert ids(joined.outcome) == ["t1"]


def test_a_detached_flight_ends_at_twice_the_budget(chain: ManualChain) -> None:
    """The flight ends at that time, and makes room for another."""
    now = chain.driver.time.monotonic_s
    chain.start(make_call(deadline=now + 2, detach=True))
    chain.driver.advance(2)
    chain.driver.advance(2)

    assert not chain.wires[0].open
    stats = chain.partition.stats()
    assert (stats.detached, stats.flights, stats.entries) == (0, 0, 0)


def test_a_caller_that_gives_up_does_not_detach(chain: ManualChain) -> None:
    """Only an exceeded budget detaches; a cancelled call ends its flight."""
    now = chain.driver.time.monotonic_s
    chain.start(make_call(deadline=now + 2, detach=True)).cancel()

    assert chain.wires[0].cancelled


def test_a_flight_that_is_done_does_not_count_as_detached(chain: ManualChain) -> None:
    """The peer's own DEADLINE_EXCEEDED ends a flight, so its place among the detached flights stays free."""
    now = chain.driver.time.monotonic_s
    chain.fetch(make_call(deadline=now + 2, detach=True), Outcome(grpc.StatusCode.DEADLINE_EXCEEDED))

    assert chain.partition.stats().detached == 0


def test_no_more_than_eight_run_on(chain: ManualChain) -> None:
    """The ninth flight ends with its caller."""
    now = chain.driver.time.monotonic_s
    for n in range(MAX_DETACHED + 1):
        chain.start(make_call(request=bytes([n]), deadline=now + 2, detach=True))
    chain.driver.advance(2)

    assert [wire.cancelled for wire in chain.wires] == [False] * MAX_DETACHED + [True]


def test_a_revocation_ends_detached_flights(chain: ManualChain) -> None:
    """They are cancelled, and nothing of them is cached."""
    now = chain.driver.time.monotonic_s
    chain.start(make_call(deadline=now + 2, detach=True))
    chain.driver.advance(2)
    fail_in_flight(chain.partition.flush(InvalidationReason.GRANT_REVOKED, "grant-1"))

    assert chain.wires[0].cancelled
    assert chain.partition.stats().detached == 0


# -- drivers


def test_a_flow_that_never_started_leaves_no_flight(chain: ManualChain) -> None:
    """A driver that cancels before it takes the flight's flow leaves nothing behind."""
    flow = compose([CachingInterceptor(chain.partition, chain.driver.time.clock, ScriptedSink())])(make_call())
    step = flow.send(None)  # type: ignore[arg-type]
    assert isinstance(step, Join)
    assert isinstance(step.flight, Flight)
    with pytest.raises(Cancelled):
        flow.throw(Cancelled())

    assert chain.partition.stats().flights == 0
    assert step.flight.take_flow() is None


@pytest.mark.parametrize("hit_only", [False, True])
def test_a_search_is_never_looked_up(chain: ManualChain, hit_only: bool) -> None:
    """A search is not answered from the cache, whatever the cache holds; a cache-only search is refused."""
    call = make_call("search")._replace(hit_only=hit_only)
    key = Key(call.grant_id, call.verb, call.resource, query_hash(call.request))
    found = chain.partition.lookup(key, lambda _: False, lambda _: Flight(0.0))
    assert isinstance(found, Miss)
    assert chain.partition.insert(found.token, b"kept", 30.0)

    run = chain.start(call)

    if hit_only:
        assert reason_of(run) == "PEER_UNREACHABLE"
    else:
        assert not run.done
        assert len(chain.wires) == 1


@pytest.mark.parametrize("late_s", [29.9, 30.0])
def test_a_caller_that_joins_when_the_lease_of_the_answer_has_ended_asks_again(
    chain: ManualChain, late_s: float
) -> None:
    """A follower gets the shared answer only if the answer's lease had not ended when the follower joined."""
    first = chain.start(make_call(deadline=1e9))
    chain.driver.advance(late_s)
    second = chain.start(make_call(deadline=1e9))
    assert len(chain.wires) == 1

    chain.wires[0].answer(rows("old", lease_ms=30_000))

    assert ids(first.outcome) == ["old"]
    assert second.done == (late_s < 30)
    if not second.done:
        chain.wires[1].answer(rows("new", lease_ms=1))
        assert ids(second.outcome) == ["new"]

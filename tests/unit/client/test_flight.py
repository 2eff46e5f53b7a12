"""The bookkeeping of a flight: its waiters, its driver, its result."""

import grpc
import pytest

from federation.client.chain.flow import Flight, Flow, Outcome

OK = Outcome(grpc.StatusCode.OK, b"rows")
CUT = Outcome(grpc.StatusCode.PERMISSION_DENIED)


def a_flow() -> Flow:
    """A flow that is never run here."""
    return OK
    yield


def flying(waiters: int = 1) -> Flight:
    """A flight with this many waiters, whose flow has been taken."""
    flight = Flight(10.0)
    for _ in range(waiters):
        assert flight.join(10.0)
    flight.set_flow(a_flow())
    assert flight.take_flow() is not None
    return flight


def test_only_the_first_driver_gets_the_flow() -> None:
    """The flow is returned once."""
    flight = Flight(10.0)
    flow = a_flow()
    flight.set_flow(flow)

    assert flight.take_flow() is flow
    assert flight.take_flow() is None


def test_the_last_waiter_learns_that_it_is_the_last() -> None:
    """`remove_waiter` is true once, for the last waiter of a call in flight; after that no waiter can join."""
    flight = flying(2)

    assert not flight.remove_waiter()
    assert flight.join(10.0)
    assert [flight.remove_waiter(), flight.remove_waiter()] == [False, True]
    assert not flight.join(10.0)


def test_leaving_a_flight_that_is_done_cancels_nothing() -> None:
    """`remove_waiter` on a flight that is done does not ask for a cancellation."""
    flight = flying()
    flight.resolve(OK, None)

    assert not flight.remove_waiter()


def test_full_budget_joins_only_a_flight_that_lasts_as_long() -> None:
    """With `full_budget`, a waiter does not join a flight with an earlier deadline than its own."""
    flight = flying()

    assert flight.join(99.0)
    assert flight.join(10.0, full_budget=True)
    assert not flight.join(10.1, full_budget=True)


def test_cancel_calls_the_driver_once_it_is_set() -> None:
    """`cancel` cancels the driver's runner, at once or once it is set; a flow not taken yet is never run."""
    aborted = []
    early = flying()
    early.on_cancel(lambda: aborted.append("early"))
    early.cancel()
    late = flying()
    late.cancel()
    late.on_cancel(lambda: aborted.append("late"))
    untaken = Flight(10.0)
    untaken.set_flow(a_flow())
    untaken.cancel()

    assert aborted == ["early", "late"]
    assert untaken.take_flow() is None


def test_a_flight_is_resolved_once_and_calls_every_subscriber() -> None:
    """Subscribers are called once, the latest first; a later subscriber is called at once."""
    flight, woken = flying(), []
    flight.subscribe(lambda: woken.append("first"))
    flight.subscribe(lambda: woken.append("second"))
    assert not flight.done

    flight.resolve(OK, None)
    flight.resolve(CUT, None)
    flight.subscribe(lambda: woken.append("late"))

    assert flight.done
    assert woken == ["second", "first", "late"]
    assert flight.result() is OK


def test_an_error_is_raised_for_every_waiter() -> None:
    """The exception of a flow that broke is the result of the flight."""
    flight = flying()
    flight.resolve(None, ZeroDivisionError("a bug"))

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            flight.result()


def test_fail_gives_every_waiter_the_outcome_and_cancels_the_call() -> None:
    """`fail` first resolves, then cancels; a later result is ignored, and no waiter can join."""
    order = []
    flight = flying()
    flight.subscribe(lambda: order.append("told"))
    flight.on_cancel(lambda: order.append("cancelled"))

    assert flight.fail(CUT)
    flight.resolve(OK, None)

    assert order == ["told", "cancelled"]
    assert flight.result() is CUT
    assert not flight.join(10.0)


def test_fail_of_a_flight_that_is_done_changes_nothing() -> None:
    """A flight that is done keeps its result; it is checked on delivery."""
    flight = flying()
    flight.resolve(OK, None)

    assert not flight.fail(CUT)
    assert flight.result() is OK

"""A flight is bookkeeping: who waits, who runs it, how it ends."""

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
    """A flight with so many waiters, whose flow has been taken."""
    flight = Flight(10.0, 1)
    for _ in range(waiters):
        assert flight.join(10.0)
    flight.set_flow(a_flow())
    assert flight.take_flow() is not None
    return flight


def test_only_the_first_driver_gets_the_flow() -> None:
    """The flow is handed out once."""
    flight = Flight(10.0, 1)
    flow = a_flow()
    flight.set_flow(flow)

    assert flight.take_flow() is flow
    assert flight.take_flow() is None


def test_the_last_waiter_learns_that_it_is_the_last() -> None:
    """`leave` is true once, for the last one of a flight that has not landed; nobody joins after that."""
    flight = flying(2)

    assert not flight.leave()
    assert flight.join(10.0)
    assert [flight.leave(), flight.leave()] == [False, True]
    assert not flight.join(10.0)


def test_leaving_a_landed_flight_ends_nothing() -> None:
    """After the landing nobody has to abort."""
    flight = flying()
    flight.resolve(OK, None)

    assert not flight.leave()


def test_the_patient_join_only_what_lasts_as_long() -> None:
    """A patient waiter refuses a flight with an earlier deadline than its own."""
    flight = flying()

    assert flight.join(99.0)
    assert flight.join(10.0, full_budget=True)
    assert not flight.join(10.1, full_budget=True)


def test_aborting_calls_the_driver_once_it_is_known() -> None:
    """`abort` cancels the driver's run, at once or when the driver says how; a flow not taken yet is never run."""
    aborted = []
    early = flying()
    early.on_cancel(lambda: aborted.append("early"))
    early.cancel()
    late = flying()
    late.cancel()
    late.on_cancel(lambda: aborted.append("late"))
    untaken = Flight(10.0, 1)
    untaken.set_flow(a_flow())
    untaken.cancel()

    assert aborted == ["early", "late"]
    assert untaken.take_flow() is None


def test_a_flight_lands_once_and_wakes_everybody() -> None:
    """Subscribers are called once, the latest first; one that comes after the landing is called at once."""
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
    """A flow that broke lands with its exception."""
    flight = flying()
    flight.resolve(None, ZeroDivisionError("a bug"))

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            flight.result()


def test_cutting_gives_everybody_the_outcome_and_ends_the_call() -> None:
    """`cut` lands first, then cancels; what the run says afterwards is ignored, and nobody joins any more."""
    order = []
    flight = flying()
    flight.subscribe(lambda: order.append("told"))
    flight.on_cancel(lambda: order.append("cancelled"))

    assert flight.fail(CUT)
    flight.resolve(OK, None)

    assert order == ["told", "cancelled"]
    assert flight.result() is CUT
    assert not flight.join(10.0)


def test_cutting_a_landed_flight_changes_nothing() -> None:
    """What has landed is looked at on delivery instead."""
    flight = flying()
    flight.resolve(OK, None)

    assert not flight.fail(CUT)
    assert flight.result() is OK

"""Work that ends although its caller is cancelled, and work that is repeated until it is cancelled."""

import asyncio
import logging
from contextlib import suppress

import pytest

from federation.aio import ShieldedTasks, cancel_and_wait, run_periodically, run_to_completion


async def finish(gate: asyncio.Event, ended: list[str]) -> str:
    """Wait for the gate, note the end, and return a result."""
    await gate.wait()
    ended.append("ended")
    return "result"


async def test_a_cancelled_caller_waits_for_the_end() -> None:
    """The caller is cancelled only after the work has ended, however often it is cancelled."""
    gate, ended = asyncio.Event(), list[str]()
    caller = asyncio.create_task(run_to_completion(finish(gate, ended)))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    gate.set()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended == ["ended"]


async def test_a_result_and_an_error_reach_the_caller() -> None:
    """Without a cancellation the caller has what the work returns or raises."""
    gate = asyncio.Event()
    gate.set()

    async def fail() -> None:
        raise ValueError("broken")

    assert await run_to_completion(finish(gate, [])) == "result"
    assert await ShieldedTasks().run(finish(gate, [])) == "result"
    with pytest.raises(ValueError, match="broken"):
        await run_to_completion(fail())


async def test_cancelled_tasks_have_ended_whatever_their_results() -> None:
    """A task that failed, or fails while it is cancelled, does not keep the caller from waiting for the others."""
    ended = list[str]()

    async def fail_at_the_end(gate: asyncio.Event) -> None:
        try:
            await gate.wait()
        finally:
            await asyncio.sleep(0)
            ended.append("ended")
            raise ValueError("broken")

    opened = asyncio.Event()
    opened.set()
    tasks = [asyncio.create_task(fail_at_the_end(gate)) for gate in (opened, asyncio.Event(), asyncio.Event())]
    await asyncio.wait(tasks[:1])

    await cancel_and_wait(*tasks)
    await cancel_and_wait()

    assert ended == ["ended"] * 3
    assert [type(task.exception()) for task in tasks] == [ValueError] * 3


async def test_shielded_tasks_end_before_join_returns() -> None:
    """A cancelled caller leaves at once; `join` waits for the work it left."""
    tasks, gate, ended = ShieldedTasks(), asyncio.Event(), list[str]()
    caller = asyncio.create_task(tasks.run(finish(gate, ended)))
    await asyncio.sleep(0)
    caller.cancel()
    with suppress(asyncio.CancelledError):
        await caller
    assert (caller.cancelled(), ended) == (True, [])
    asyncio.get_running_loop().call_soon(gate.set)

    await tasks.join()

    assert ended == ["ended"]


async def test_periodic_work_goes_on_after_errors_and_logs_the_same_one_once(caplog: pytest.LogCaptureFixture) -> None:
    """An expected error is logged again once it differs or the work succeeded between; any other one each time."""
    results = iter(
        [OSError("full"), OSError("full"), OSError("gone"), None, OSError("gone"), ValueError(), ValueError()]
    )

    async def work() -> None:
        fault = next(results, asyncio.CancelledError())
        if fault is not None:
            raise fault

    with pytest.raises(asyncio.CancelledError):
        await run_periodically(0.0, work, expected=OSError, logger=logging.getLogger("test"), failing="no copy")

    unexpected = "no copy: unexpected error; retrying"
    expected = [f"no copy: {text}; retrying" for text in ("full", "gone", "gone")]
    assert caplog.messages == [*expected, unexpected, unexpected]
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, False, True, True]

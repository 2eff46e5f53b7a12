"""Tests that a run of the benchmark is complete; times are not tested."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench.many_peers import FIGURES

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CHAIN = {
    f"{face} {what}, span {span}"
    for face in ("aio", "sync")
    for what in ("chain", "hit", "open circuit")
    for span in ("on", "off")
}
BARE = {"aio bare", "aio bare + OTel", "sync bare"}


def bench(*options: str) -> str:
    """The output of the shortest run."""
    command = [sys.executable, "-m", "tests.bench", "--quick", "--rounds", "1", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.fixture(scope="module")
def figures() -> Any:
    """The figures of one run."""
    return json.loads(bench("--json"))


def test_every_variant_has_its_figures(figures: Any) -> None:
    """Every variant has times above zero and ratios to its bare call."""
    assert set(figures["variants"]) == CHAIN | BARE
    for row in figures["variants"].values():
        assert min(row["p50_us"], row["best_us"], row["cpu_us"], row["best_ratio"]) > 0
        assert set(row["ratio"]) == set(row["cpu_ratio"]) == {"middle", "low", "high"}
    assert {figures["variants"][name]["best_ratio"] for name in ("aio bare", "sync bare")} == {1.0}


def test_a_hundred_misses_make_one_call(figures: Any) -> None:
    """The server counted one call for a hundred callers through the chain, and a hundred calls for bare callers."""
    assert figures["sharing"]["chain_calls"] == [1]
    assert figures["sharing"]["bare_calls"] == [100]


def test_growth_is_measured_at_every_power_of_ten(figures: Any) -> None:
    """Entries and peers grow separately, and every size has times."""
    assert [(size["peers"], size["entries"]) for size in figures["growth"]] == [
        (1, 100),
        (1, 1_000),
        (1, 1),
        (10, 1),
        (100, 1),
    ]
    assert all(min(size["hit_us"]) > 0 for size in figures["growth"])


def test_the_status_command_is_timed_against_the_start_of_python(figures: Any) -> None:
    """Both variants are slower than a process that does nothing."""
    assert set(figures["status"]) == {"python -c pass", "status, 1 peer", "status, 20 peers"}
    assert figures["status"]["python -c pass"]["best_ratio"] == 1.0
    assert all(figures["status"][name]["best_ratio"] > 1 for name in ("status, 1 peer", "status, 20 peers"))


def test_sessions_are_timed_against_a_bare_call_that_waits(figures: Any) -> None:
    """Every variant has times; those that wait for a peer take at least 20 ms."""
    rows = figures["sessions"]
    assert len(rows) == 9
    assert all(row["best_us"] > 0 for row in rows.values())
    waiting = [name for name in rows if "at 20 ms" in name]
    assert len(waiting) == 4
    assert all(rows[name]["best_us"] >= 20_000 for name in waiting)


def test_many_peers_are_measured_in_time_tasks_and_memory(figures: Any) -> None:
    """Half of the peers answered, and every figure of the table is present."""
    [many_peers] = figures["crowd"]["rounds"]
    assert (figures["crowd"]["peers"], many_peers["first_ok"], many_peers["first_offline"]) == (20, 11, 10)
    assert many_peers.keys() >= FIGURES.keys()
    assert many_peers["most_tasks"] >= many_peers["open_tasks"] > 0


def test_every_goal_has_a_result(figures: Any) -> None:
    """Each goal is met, missed, or not measured."""
    goals = figures["goals"]
    assert len(goals) == 24
    assert [goal["what"] for goal in goals if goal["met"] is None] == ["open circuit against an ejecting Envoy"]
    assert all(goal["measured"] and goal["limit"] for goal in goals)


def test_the_tables_have_every_label() -> None:
    """The tables have every variant, figure and goal."""
    text = bench()
    for line in (
        *CHAIN,
        *BARE,
        "closed breaker, net",
        "100 through the chain, 1 at the server",
        "not measured",
        *FIGURES.values(),
    ):
        assert line in text

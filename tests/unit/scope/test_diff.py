import json
from typing import Any

import pytest

from federation.scope.diff import compare_scopes
from federation.scope.model import Scope


def scope(*resources: str, **changes: Any) -> Scope:
    """A scope as its document says."""
    return Scope.parse(json.dumps({"resources": resources or ["tasks"], **changes}))


def teams(*names: str, personal: bool = False) -> dict[str, Any]:
    """A filter of tasks."""
    return {"filters": {"tasks": {"include_teams": names, "include_personal": personal}}}


NARROWER = [
    (scope("tasks", "notes"), scope("tasks"), "notes: rows of every team and personal rows"),
    (scope("tasks", "notes"), scope("tasks", "notes", excluded_resources=["notes"]), "notes: rows of every team and"),
    (scope(), scope(**teams("T1", personal=True)), "tasks: rows of every team but T1"),
    (scope(), scope(**teams("T1", "T2", personal=True)), "tasks: rows of every team but T1, T2"),
    (scope(**teams(personal=True)), scope(**teams()), "tasks: personal rows"),
    (scope(**teams("T1", "T2")), scope(**teams("T1")), "tasks: rows of team T2"),
    (scope(**teams("T1", "T2", "T3")), scope(**teams("T1")), "tasks: rows of teams T2, T3"),
    (scope(**teams("T1", personal=True)), scope(**teams("T1")), "tasks: personal rows"),
    (scope("tasks", "notes", **teams("T1")), scope("notes"), "tasks: rows of team T1"),
    (scope("tasks", "notes", **teams("T1", personal=True)), scope("notes"), "tasks: rows of team T1 and personal rows"),
]


@pytest.mark.parametrize(("wide", "narrow", "words"), NARROWER)
def test_what_is_lost_one_way_is_gained_the_other(wide: Scope, narrow: Scope, words: str) -> None:
    """A loss is described and narrows; the reverse change is the same gain and does not narrow."""
    lost, gained = compare_scopes(wide, narrow), compare_scopes(narrow, wide)
    assert (len(lost.losses), lost.gains, lost.narrows) == (1, (), True)
    assert lost.losses[0].startswith(words)
    assert (gained.gains, gained.losses, gained.narrows) == (lost.losses, (), False)


def test_a_lower_cap_narrows() -> None:
    """A changed row limit is a loss or a gain, described with both numbers."""
    small, large = scope(max_rows_per_query=50), scope(max_rows_per_query=100)
    assert compare_scopes(large, small).losses == ("50 rows a query, before 100",)
    assert compare_scopes(large, small).narrows
    assert compare_scopes(small, large).gains == ("100 rows a query, before 50",)
    assert not compare_scopes(small, large).narrows


def test_a_lower_rate_is_a_loss_that_does_not_narrow() -> None:
    """A lower rate limit does not affect answers given before."""
    slow, fast = scope(rate_limit_per_minute=60), scope(rate_limit_per_minute=600)
    assert compare_scopes(fast, slow).losses == ("60 calls a minute, before 600",)
    assert not compare_scopes(fast, slow).narrows
    assert compare_scopes(slow, fast).gains == ("600 calls a minute, before 60",)


def test_gains_and_losses_may_come_together() -> None:
    """One resource for another is both, and narrows."""
    change = compare_scopes(scope("tasks"), scope("notes", max_rows_per_query=200))
    assert len(change.gains) == 2
    assert len(change.losses) == 1
    assert change.narrows


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (scope(), scope()),
        (scope(), scope(excluded_resources=["credentials"])),
        (scope(), scope(filters={"tasks": {}})),
        (scope("tasks", "notes"), scope("notes", "tasks")),
    ],
)
def test_what_opens_the_same_neither_gains_nor_loses(before: Scope, after: Scope) -> None:
    """Only what a peer can read counts, not how the document says it."""
    change = compare_scopes(before, after)
    assert (change.gains, change.losses, change.narrows) == ((), (), False)

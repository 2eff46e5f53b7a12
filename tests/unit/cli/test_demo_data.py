import json
from collections import Counter
from importlib.resources.abc import Traversable

import pytest

from federation.clock import from_micros
from federation.resources.batch import Batch, Member, NewRow
from federation.scope.model import KNOWN_RESOURCES
from mosaic_cli.demo.data import HOME, WORK
from tests.support.rows import parse


def batch(file: Traversable) -> Batch:
    """The entries of a sample file."""
    return parse([file.read_bytes()])


def fields(row: NewRow) -> dict[str, object]:
    """The data of a row."""
    data = json.loads(row.data.text)
    assert isinstance(data, dict)
    return data


def test_the_work_sample_is_a_small_company() -> None:
    """Three people in two teams, and about two hundred rows."""
    work = batch(WORK)

    assert set(work.users) == {"ada", "grace", "linus"}
    assert set(work.teams) == {"T1", "T2"}
    assert set(work.members) == {
        Member("ada", "T1"),
        Member("grace", "T1"),
        Member("grace", "T2"),
        Member("linus", "T2"),
    }
    assert 190 <= len(work.rows) <= 230


def test_every_resource_has_rows_of_both_teams_and_personal_ones() -> None:
    """Whatever the demo narrows, something stays and something goes; and a denied resource exists."""
    places = Counter((row.resource, row.team) for row in batch(WORK).rows)
    personal = Counter(row.owner for row in batch(WORK).rows if not row.team)

    assert all(places[resource, team] >= 15 for resource in KNOWN_RESOURCES for team in ("T1", "T2", ""))
    assert all(personal[owner] >= 15 for owner in ("ada", "grace", "linus"))
    assert 1 <= sum(count for (resource, _), count in places.items() if resource == "credentials") <= 5


def test_people_write_into_their_own_teams() -> None:
    """The owner of a team's row is a member of the team, and every name exists in the file itself."""
    work = batch(WORK)

    assert all(Member(row.owner, row.team) in work.members for row in work.rows if row.team)
    assert {row.owner for row in work.rows} == set(work.users)


@pytest.mark.parametrize("file", [WORK, HOME], ids=["work", "home"])
def test_nothing_is_said_twice(file: Traversable) -> None:
    """Titles and longer texts are all different, and none is numbered."""
    said = [
        text
        for row in batch(file).rows
        for name, text in fields(row).items()
        if name in {"title", "body", "detail", "text", "name", "secret"}
    ]

    assert [text for text, count in Counter(said).items() if count > 1] == []
    assert all(isinstance(text, str) and len(text) >= 4 for text in said)


@pytest.mark.parametrize("file", [WORK, HOME], ids=["work", "home"])
def test_dates_are_fixed_and_in_the_autumn_of_2026(file: Traversable) -> None:
    """Every row has its own instants, no update lies before its creation, and due dates are dates of that season."""
    for row in batch(file).rows:
        assert row.created_at_us is not None
        assert row.updated_at_us is not None
        assert row.created_at_us <= row.updated_at_us
        assert "2026-09-01" <= from_micros(row.created_at_us).date().isoformat() <= "2026-10-31"
        assert "2026-09-01" <= str(fields(row).get("due", "2026-10-01")) <= "2026-12-21"
        assert fields(row).get("done", False) == (fields(row).get("status") == "done")


def test_tasks_differ_in_status_and_priority() -> None:
    """A filter on either has something to choose from in each team."""
    tasks = [(row.team, fields(row)) for row in batch(WORK).rows if row.resource == "tasks"]

    for team in ("T1", "T2", ""):
        assert {data["status"] for place, data in tasks if place == team} >= {"todo", "doing", "done"}
        assert {data["priority"] for place, data in tasks if place == team} == {"low", "normal", "high"}


def test_the_home_sample_is_adas_alone() -> None:
    """One user, personal rows, no team; and no id that the work sample has."""
    home, work = batch(HOME), batch(WORK)

    assert (home.users, home.teams, home.members) == (("ada",), (), ())
    assert {(row.owner, row.team) for row in home.rows} == {("ada", "")}
    assert 10 <= len(home.rows) <= 30
    assert {row.id for row in home.rows}.isdisjoint(row.id for row in work.rows)

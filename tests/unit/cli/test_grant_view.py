"""Grants for people: what is said where a grant opens nothing, or where that could not be counted."""

import re

import pytest

from federation.v1 import admin_pb2 as pb
from mosaic_cli.grants.view import show_opened, show_opens

TASKS = pb.ResourcePreview(resource="tasks", rows=3, newest_ids=("c", "b", "a"))
LOG = "see the gateway's log"


@pytest.mark.parametrize(
    ("scope", "status", "opens", "words"),
    [
        ('{"resources": ["tasks"]}', pb.GRANT_STATUS_ACTIVE, (TASKS,), ""),
        ('{"resources": ["tasks", "notes"]}', pb.GRANT_STATUS_ACTIVE, (TASKS,), f"not counted: notes; {LOG}\n"),
        ('{"resources": ["tasks"]}', pb.GRANT_STATUS_ACTIVE, (), f"not counted: tasks; {LOG}\n"),
        ('{"resources": ["tasks"]}', pb.GRANT_STATUS_EXPIRED, (), "the grant opens nothing: it is expired\n"),
        (
            '{"resources": ["tasks"], "excluded_resources": ["tasks"]}',
            pb.GRANT_STATUS_PENDING,
            (),
            "the grant opens nothing: its scope excludes every resource that it names\n",
        ),
        ('{"of another": "version"}', pb.GRANT_STATUS_ACTIVE, (), ""),
    ],
)
def test_only_excluded_resources_are_reported_as_closed(
    capsys: pytest.CaptureFixture[str],
    scope: str,
    status: pb.GrantStatus.ValueType,
    opens: tuple[pb.ResourcePreview, ...],
    words: str,
) -> None:
    """Uncounted rows are shown as such; a grant opens nothing by its status, or because all is excluded."""
    show_opens(pb.GrantInfo(scope=scope, status=status), opens)

    shown = capsys.readouterr()
    assert shown.err == words
    assert ("c, b, a" in shown.out) == bool(opens)


def test_what_a_scope_would_open_is_told_from_what_it_closes_and_what_was_not_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A count is a count; closed is a dash, and a count that could not be had is said to be missing."""
    grant = pb.GrantInfo(scope='{"resources": ["tasks", "notes"]}', status=pb.GRANT_STATUS_ACTIVE)
    more = pb.ResourcePreview(resource="memory", rows=1_000, more=True)

    show_opened(pb.UpdateGrantScopeResponse(grant=grant, opened=(TASKS,), opens=(more,)), ("tasks", "memory"))

    assert [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()[2:]] == [
        ["tasks", "3", "not counted", "-"],
        ["notes", "not counted", "-", "-"],
        ["memory", "-", "1000+", "-"],
    ]

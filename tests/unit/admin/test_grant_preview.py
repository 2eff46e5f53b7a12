"""Counting what a scope opens: bounded in rows, in memory and in time, whatever the provider does."""

import asyncio
from typing import Any

import pytest

from federation.admin import grant_preview as module
from federation.admin.grant_preview import MAX_COUNTED_ROWS, MAX_NEWEST_IDS, has_rows, preview
from federation.resources.provider import ListQuery, Page, Row
from federation.scope.model import RowFilter, Scope
from tests.support.provider import ListedProvider, row


def scope(*resources: str, **filters: RowFilter) -> Scope:
    """A scope of resources."""
    return Scope(resources=resources, filters=filters)


@pytest.mark.parametrize(
    ("rows", "counted", "more"), [(0, 0, False), (3, 3, False), (200, 200, False), (1_000, 1_000, False),
                                  (1_001, 1_000, True), (1_300, 1_000, True)]
)  # fmt: skip
async def test_rows_are_counted_to_a_bound(rows: int, counted: int, more: bool) -> None:
    """The count is exact up to 1,000 rows, and `more` beyond. At most 200 rows are in memory."""
    provider = ListedProvider([row(f"t{n:04}", age=n) for n in range(rows)], {"ada": set()})

    (shown,) = await preview(provider, "ada", scope("tasks"))

    assert (shown.rows, shown.more) == (counted, more)
    assert list(shown.newest_ids) == [f"t{n:04}" for n in range(min(MAX_NEWEST_IDS, rows))]
    assert max(query.limit for _, _, query in provider.calls) <= 200


async def test_rows_are_those_that_the_peer_would_read() -> None:
    """Rows are read as the subject, through the scope's filters, of open resources only."""
    provider = ListedProvider(
        [row("mine"), row("t1", team="T1", age=1), row("t2", team="T2", age=2), row("bobs", owner="bob"),
         row("secret", resource="credentials"), row("note", resource="notes")],
        {"ada": {"T1", "T2"}, "bob": set()},
    )  # fmt: skip
    narrowed = Scope(
        resources=("notes", "tasks", "credentials"),
        excluded_resources=("credentials",),
        filters={"tasks": RowFilter(frozenset({"T1"}), include_personal=False)},
    )

    shown = await preview(provider, "ada", narrowed)

    assert [(one.resource, list(one.newest_ids)) for one in shown] == [("notes", ["note"]), ("tasks", ["t1"])]
    assert {subject for _, subject, _ in provider.calls} == {"ada"}


async def test_a_provider_that_fails_leaves_its_resource_out(caplog: pytest.LogCaptureFixture) -> None:
    """The other resources are counted, the failure is logged, and nothing is raised."""

    class HalfBroken(ListedProvider):
        async def list(self, subject: str, query: ListQuery) -> Page[Row]:
            if query.resource == "notes":
                raise RuntimeError("no notes today")
            return await super().list(subject, query)

    provider = HalfBroken([row("t"), row("n", resource="notes")], {"ada": set()})

    shown = await preview(provider, "ada", scope("notes", "tasks"))

    assert [one.resource for one in shown] == ["tasks"]
    assert "no notes today" in caplog.text


async def test_a_provider_that_stalls_is_cut_at_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows counted before the time limit are a lower bound."""
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)

    class Stalls(ListedProvider):
        async def list(self, subject: str, query: ListQuery) -> Page[Row]:
            if query.after is not None:
                await asyncio.Event().wait()
            return await super().list(subject, query)

    provider = Stalls([row(f"t{n:03}", age=n) for n in range(300)], {"ada": set()})

    (shown,) = await preview(provider, "ada", scope("tasks", "notes"))

    assert (shown.resource, shown.rows, shown.more) == ("tasks", 200, True)


@pytest.mark.parametrize("items", [(), tuple(row(f"x{n}", age=n) for n in range(300))])
async def test_a_provider_that_violates_its_contract_ends_the_count(items: tuple[Any, ...]) -> None:
    """`more` with an empty page, or a page that is too long, causes neither a loop nor a larger count."""

    class Lies(ListedProvider):
        async def list(self, subject: str, query: ListQuery) -> Page[Row]:
            return Page(items, more=True)

    (shown,) = await preview(Lies(), "ada", scope("tasks"))

    assert shown.rows <= MAX_COUNTED_ROWS
    assert len(shown.newest_ids) <= MAX_NEWEST_IDS


async def test_has_rows_requests_one_row() -> None:
    """Only one row is requested."""
    provider = ListedProvider([row("t", team="T1"), row("u", team="T1", age=1)], {"ada": {"T1"}})

    assert await has_rows(provider, "ada", "tasks", RowFilter(frozenset({"T1"}), include_personal=False))
    assert not await has_rows(provider, "ada", "tasks", RowFilter(frozenset({"T2"}), include_personal=False))
    assert {query.limit for _, _, query in provider.calls} == {1}

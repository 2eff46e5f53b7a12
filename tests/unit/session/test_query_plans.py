"""Paging over several sources: every row once and in order, with any caps, also while a source is away."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.session.paging.cursors import Cursor, CursorTokens, SearchCursor
from federation.session.paging.merge import DONE, Page, merge, remaining_cursors
from federation.session.paging.query_plans import (
    CapabilitiesPlan,
    GetPlan,
    ListPlan,
    OrderViolationError,
    QueryPlan,
    SearchPlan,
    Tags,
)
from federation.session.results import SessionRow
from federation.v1 import federation_pb2 as pb

TOKENS = CursorTokens(b"k" * 32)
SOURCES = ("federated:lab", "federated:work", "local")


def message(row_id: str, created: int, nanos: int = 0) -> pb.Row:
    """A row of a second."""
    row = pb.Row(id=row_id, resource="tasks")
    row.created_at.seconds, row.created_at.nanos = created, nanos
    return row


@dataclass
class PagedSource:
    """A source that pages as the wire contract says, with at most `cap` rows per page."""

    rows: list[pb.Row]
    cap: int
    asked: list[Any] = field(default_factory=list)

    def list(self, request: pb.ListRequest) -> pb.ListResponse:
        self.asked.append(request)
        rows = sorted(self.rows, key=self._order)
        if request.HasField("after"):
            after = request.after
            cursor = (-after.created_at.seconds, after.id)
            rows = [row for row in rows if self._order(row) > cursor]
        size = min(request.page_size or 50, self.cap)
        return pb.ListResponse(rows=rows[:size], next_page_token="more" if len(rows) > size else "")

    def search(self, request: pb.SearchRequest) -> pb.SearchResponse:
        self.asked.append(request)
        start = int(request.page_token or 0)
        end = start + min(request.page_size or 50, self.cap)
        hits = [pb.SearchHit(row=row, score=1 / (1 + n), snippet="s") for n, row in enumerate(self.rows)]
        return pb.SearchResponse(hits=hits[start:end], next_page_token=str(end) if end < len(hits) else "")

    @staticmethod
    def _order(row: pb.Row) -> tuple[int, str]:
        return -row.created_at.seconds, row.id


@dataclass
class Reader:
    """Pages through sources as a session does, without the wire."""

    sources: dict[str, PagedSource]
    plan: QueryPlan
    streamed: bool = False
    token: str = ""
    cursors: dict[str, Cursor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cursors = dict.fromkeys(self.sources)

    def page(self, away: Sequence[str] = ()) -> list[SessionRow]:
        """Read one page while some sources are unavailable, and continue by the token."""
        pages = []
        for source, cursor in self.cursors.items():
            if source not in away:
                reply = getattr(self.sources[source], self.plan.verb)(self.plan.request(cursor))
                pages.append(self.plan.page(reply, cursor, Tags(source)))
        if self.streamed:
            rows = [row for page in pages for row in page.rows]
            used = {page.source: len(page.rows) for page in pages}
        else:
            merged, used = merge(pages, self.plan.limit)
            rows = list(merged)
        after = {p.source: self.plan.next_cursor(p, used[p.source], self.cursors[p.source]) for p in pages}
        left = remaining_cursors(self.cursors, after, [page.source for page in pages])
        self.token = TOKENS.seal(self.plan.context, left)
        self.cursors = TOKENS.open(self.plan.context, self.token) if self.token else {}
        return rows


def list_order(row: SessionRow) -> tuple[int, str, str]:
    """The order of a merged list."""
    return -row.row.created_at.seconds, row.source, row.id


stocks = st.lists(
    st.tuples(st.integers(0, 8), st.text("abc", min_size=1, max_size=2)), max_size=25, unique_by=lambda row: row[1]
)
drawn_sources = st.fixed_dictionaries({source: st.tuples(stocks, st.integers(1, 6)) for source in SOURCES})


def paged_sources(world: dict[str, tuple[list[tuple[int, str]], int]]) -> dict[str, PagedSource]:
    """The sources of a drawn world."""
    return {source: PagedSource([message(i, at) for at, i in rows], cap) for source, (rows, cap) in world.items()}


def everything(sources: dict[str, PagedSource]) -> list[tuple[str, str]]:
    """Each row as (source, id)."""
    return sorted((source, row.id) for source, each in sources.items() for row in each.rows)


@settings(max_examples=150)
@given(drawn_sources, st.integers(1, 7))
def test_a_list_over_sources_is_one_list(world: Any, size: int) -> None:
    """If every source answers, the concatenated pages are all rows in merged order, each exactly once."""
    sources = paged_sources(world)
    reader = Reader(sources, ListPlan(pb.ListRequest(resource="tasks", page_size=size), "ada", "all"))
    rows = reader.page()
    for _ in range(100):
        if reader.token:
            page = reader.page()
            assert 0 < len(page) <= size
            rows += page

    assert reader.token == ""
    assert rows == sorted(rows, key=list_order)
    assert sorted((row.source, row.id) for row in rows) == everything(sources)


@settings(max_examples=150)
@given(drawn_sources, st.integers(1, 7), st.data(), st.booleans(), st.sampled_from(["list", "search"]))
def test_unavailable_sources_neither_lose_nor_repeat_rows(
    world: Any, size: int, data: st.DataObject, streamed: bool, verb: str
) -> None:
    """Sources are away at random pages: each page is in order, and all pages hold every row once.

    Only what a source has left when all others have ended is missing; its page told so, and ended the token.
    """
    sources = paged_sources(world)
    plan: QueryPlan = (
        ListPlan(pb.ListRequest(resource="tasks", page_size=size), "ada", "all")
        if verb == "list"
        else SearchPlan(pb.SearchRequest(query="x", page_size=size), "ada", "all")
    )
    reader = Reader(sources, plan, streamed)
    rows: list[SessionRow] = []
    for _ in range(400):
        before = dict(reader.cursors)
        away = data.draw(st.sets(st.sampled_from(SOURCES), max_size=2)) & before.keys()
        page = reader.page(tuple(away))
        if not streamed and verb == "list":
            assert page == sorted(page, key=list_order)
        rows += page
        if not reader.token:
            break
    else:
        raise AssertionError("the pages never end")

    got = sorted((row.source, row.id) for row in rows)
    assert len(set(got)) == len(got)
    missing = {source for source, _ in set(everything(sources)) - set(got)}
    assert missing <= away
    assert set(got) <= set(everything(sources))


@settings(max_examples=100)
@given(drawn_sources, st.integers(1, 7))
def test_a_search_over_sources_is_one_ranking(world: Any, size: int) -> None:
    """Hits come by descending score over all pages, in each source's own order, each exactly once."""
    sources = paged_sources(world)
    reader = Reader(sources, SearchPlan(pb.SearchRequest(query="x", page_size=size), "ada", "all"))
    rows = reader.page()
    for _ in range(100):
        if reader.token:
            rows += reader.page()

    assert reader.token == ""
    scores = [row.score for row in rows]
    assert scores == sorted(scores, reverse=True)
    for source, each in sources.items():
        assert [row.id for row in rows if row.source == source] == [row.id for row in each.rows]


def test_the_first_page_has_the_request_of_a_stub() -> None:
    """Without a cursor the request has the caller's fields and no others: it shares a cache entry with plain calls."""
    asked = pb.ListRequest(resource="tasks", where={"status": "open"}, page_size=7, page_token="composite")
    plain = pb.ListRequest(resource="tasks", where={"status": "open"}, page_size=7)
    assert ListPlan(asked, "ada", "all").request(None) == plain
    search = pb.SearchRequest(query="x", resources=["tasks"], page_size=7, page_token="composite")
    assert SearchPlan(search, "ada", "all").request(None) == pb.SearchRequest(
        query="x", resources=["tasks"], page_size=7
    )


def test_a_capped_source_delays_rows_that_sort_after_its_page() -> None:
    """After the two rows of a capped source, older rows of the other sources wait for the next page."""
    lab = PagedSource([message(f"l{n}", 100 - n) for n in range(4)], cap=2)
    local = PagedSource([message("new", 200), message("old", 1)], cap=50)
    reader = Reader({"federated:lab": lab, "local": local}, ListPlan(pb.ListRequest(resource="tasks"), "ada", "all"))
    assert [row.id for row in reader.page()] == ["new", "l0", "l1"]
    assert [row.id for row in reader.page()] == ["l2", "l3", "old"]
    assert reader.token == ""


def test_rows_of_one_instant_are_ordered_by_source_then_id() -> None:
    """Ties are broken by the source's name, then by the row's id; the same id at two sources is two rows."""
    pages = [
        ListPlan(pb.ListRequest(resource="tasks"), "ada", "all").page(
            pb.ListResponse(rows=[message("a", 5), message("b", 5)]), None, Tags(source)
        )
        for source in ("local", "federated:work")
    ]
    rows, _ = merge(pages, 50)
    assert [(row.source, row.id) for row in rows] == [
        ("federated:work", "a"),
        ("federated:work", "b"),
        ("local", "a"),
        ("local", "b"),
    ]


def test_a_search_repeats_the_request_of_a_page_used_in_part() -> None:
    """Until a source's page is used up, the same token and size are requested, whatever the caller's page size."""
    lab = PagedSource([message(f"l{n}", n) for n in range(9)], cap=4)
    local = PagedSource([message(f"h{n}", n) for n in range(9)], cap=4)
    first = SearchPlan(pb.SearchRequest(query="x", page_size=3), "ada", "all")
    reader = Reader({"federated:lab": lab, "local": local}, first)
    assert [row.id for row in reader.page()] == ["l0", "h0", "l1"]
    assert reader.cursors["local"] == SearchCursor("", 1, 3, 1.0)

    reader.plan = SearchPlan(pb.SearchRequest(query="x", page_size=40), "ada", "all")
    assert [row.id for row in reader.page()] == ["h1", "l2"]
    assert (local.asked[1].page_token, local.asked[1].page_size) == ("", 3)
    assert reader.cursors["federated:lab"] == SearchCursor("3", 0, 40, 1.0)


def test_scores_are_relative_to_each_sources_best() -> None:
    """Sources with best scores of 0.5 and 1 rank equally; later pages are scaled by the same best score."""
    plan = SearchPlan(pb.SearchRequest(query="x"), "ada", "all")
    hits = [pb.SearchHit(row=message("a", 1), score=0.5), pb.SearchHit(row=message("b", 1), score=0.25)]
    page = plan.page(pb.SearchResponse(hits=hits, next_page_token="2"), None, Tags("local"))
    assert [row.score for row in page.rows] == [1.0, 0.5]

    cursor = plan.next_cursor(page, 2, None)
    assert not isinstance(cursor, type(DONE))
    later = plan.page(pb.SearchResponse(hits=[pb.SearchHit(score=0.125)]), cursor, Tags("local"))
    assert [row.score for row in later.rows] == [0.25]


@pytest.mark.parametrize("scores", [[float("nan"), 1.0], [0.5, 7.0], [0.0, -1.0], [float("inf"), 1.0]])
def test_a_peers_odd_scores_stay_within_bounds(scores: list[float]) -> None:
    """Scores are clamped to (0, 1] and never increase, so a merge preserves the peer's order."""
    plan = SearchPlan(pb.SearchRequest(query="x"), "ada", "all")
    hits = [pb.SearchHit(row=message(str(n), 1), score=score) for n, score in enumerate(scores)]
    page = plan.page(pb.SearchResponse(hits=hits), None, Tags("local"))
    got = [row.score for row in page.rows]
    assert all(0 < score <= 1 for score in got)
    assert got == sorted(got, reverse=True)
    assert list(page.keys) == sorted(page.keys)


def test_a_search_ends_with_an_empty_page() -> None:
    """An empty page with a next token is the last page: otherwise paging would never end."""
    plan = SearchPlan(pb.SearchRequest(query="x"), "ada", "all")
    page = plan.page(pb.SearchResponse(next_page_token="7"), SearchCursor("6", 0, 0, 1.0), Tags("local"))
    assert plan.next_cursor(page, 0, SearchCursor("6", 0, 0, 1.0)) is DONE
    listed = ListPlan(pb.ListRequest(resource="tasks"), "ada", "all")
    assert listed.next_cursor(listed.page(pb.ListResponse(next_page_token="7"), None, Tags("local")), 0, None) is DONE


@pytest.mark.parametrize(
    "rows",
    [
        [message("a", 1), message("b", 2)],
        [message("b", 1), message("a", 1)],
        [message("a", 1), message("a", 1)],
        [message("", 1)],
        [message("a", 1, nanos=-1)],
        [message("a", 1 << 60)],
    ],
)
def test_a_list_out_of_order_is_refused(rows: list[pb.Row]) -> None:
    """Rows that are not newest first, then by id, or have no position, would be lost or repeated."""
    plan = ListPlan(pb.ListRequest(resource="tasks"), "ada", "all")
    with pytest.raises(OrderViolationError):
        plan.page(pb.ListResponse(rows=rows), None, Tags("local"))


def test_a_cyclic_list_is_refused() -> None:
    """A page that begins at or before the requested cursor would make paging endless."""
    plan = ListPlan(pb.ListRequest(resource="tasks"), "ada", "all")
    page = plan.page(pb.ListResponse(rows=[message("a", 5)], next_page_token="1"), None, Tags("local"))
    cursor = plan.next_cursor(page, 1, None)
    assert not isinstance(cursor, type(DONE))
    with pytest.raises(OrderViolationError):
        plan.page(pb.ListResponse(rows=[message("a", 5)]), cursor, Tags("local"))


def test_a_peers_overlong_token_is_refused() -> None:
    """The token of a search is part of the session's token, so its length is bounded."""
    plan = SearchPlan(pb.SearchRequest(query="x"), "ada", "all")
    with pytest.raises(OrderViolationError):
        plan.page(pb.SearchResponse(next_page_token="x" * 5_000), None, Tags("local"))


def test_only_unavailable_sources_leave_no_token() -> None:
    """If no source that answered has more rows, there is no next token."""
    before: dict[str, Cursor] = {"local": None, "federated:work": None}
    assert remaining_cursors(before, {"local": DONE}, ["local"]) == {}
    assert remaining_cursors(before, {"local": None}, ["local"]) == before
    assert remaining_cursors(before, {}, []) == {}


def test_a_row_and_capabilities_have_no_second_page() -> None:
    """Get and capabilities end with their first answer."""
    got = GetPlan(pb.GetRequest(resource="tasks", id="a"), "ada", "all")
    page = got.page(pb.GetResponse(row=message("a", 5)), None, Tags("local", cached=True, age_s=2.0))
    assert [(row.id, row.cached, row.age_s) for row in page.rows] == [("a", True, 2.0)]
    assert got.next_cursor(page, 1, None) is DONE
    opened = CapabilitiesPlan(pb.CapabilitiesRequest(), "ada", "all")
    assert opened.page(pb.CapabilitiesResponse(), None, Tags("local")) == Page("local")
    assert opened.next_cursor(Page("local"), 0, None) is DONE

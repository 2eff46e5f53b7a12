from dataclasses import replace
from typing import Any

import pytest

from federation.errors import Reason, Refusal
from federation.resources.provider import ListQuery, Page, Position, Row
from federation.scope.model import RowFilter, Scope
from federation.store.grants.model import Grant
from federation.v1 import federation_pb2 as pb
from federation.verbs.handlers import PAGE_BYTES, Verbs
from federation.verbs.page_tokens import PageTokens
from tests.support.provider import ListedProvider, row
from tests.support.server_in_memory import grant_of, sample_rows

GRANT = grant_of()


def verbs(provider: Any = None) -> Verbs:
    """The verbs over a provider, the sample rows by default."""
    return Verbs("work.example", "1.2.3", provider or sample_rows(), PageTokens(b"k" * 32))


def scoped(**changes: Any) -> Grant:
    """The good grant with another scope."""
    return replace(GRANT, scope=replace(GRANT.scope, **changes))


async def ids(served: Verbs, grant: Grant = GRANT, **request: Any) -> list[str]:
    """The ids of a list."""
    reply = await served.list(grant, pb.ListRequest(**request))
    return [found.id for found in reply.message.rows]


async def refusal_of(call: Any) -> Refusal:
    """The refusal of a call."""
    with pytest.raises(Refusal) as caught:
        await call
    return caught.value


async def test_a_list_shows_what_the_subject_may_see_within_the_scope() -> None:
    """The subject's own rights come first; teams and personal of the scope narrow them."""
    assert await ids(verbs(), resource="tasks") == ["t1", "t2", "t3"]
    assert await ids(verbs(), resource="notes") == ["n1"]
    narrow = scoped(filters={"tasks": RowFilter(frozenset({"T1"}), include_personal=False)})
    assert await ids(verbs(), narrow, resource="tasks") == []


async def test_where_is_handed_on_as_equality() -> None:
    """The provider gets the filter of the list request unchanged."""
    assert await ids(verbs(), resource="tasks", where={"title": "task 2"}) == ["t2"]


@pytest.mark.parametrize(("asked", "limit"), [(0, 50), (7, 7), (80, 60), (2**31 - 1, 60)])
async def test_the_scope_caps_any_page_size(asked: int, limit: int) -> None:
    """0 means the default, and the grant caps every size."""
    provider = ListedProvider()

    await ids(verbs(provider), scoped(max_rows_per_query=60), resource="tasks", page_size=asked)

    assert provider.calls[0][2].limit == limit


@pytest.mark.parametrize("sizes", [[1, 1, 1, 1], [2, 1, 5], [0]])
async def test_pages_give_every_row_once_also_when_their_size_changes(sizes: list[int]) -> None:
    """Tokens lead through the whole list, whatever size each page has, and end with an empty one."""
    provider, seen, token = ListedProvider([row(f"r{i}", age=i // 3) for i in range(4)]), [], ""

    for size in sizes:
        reply = await verbs(provider).list(GRANT, pb.ListRequest(resource="tasks", page_size=size, page_token=token))
        seen += [found.id for found in reply.message.rows]
        token = reply.message.next_page_token

    assert seen == ["r0", "r1", "r2", "r3"]
    assert token == ""


async def test_after_starts_behind_a_known_row() -> None:
    """A caller that knows a row gets the page after it, without a token."""
    first = (await verbs().list(GRANT, pb.ListRequest(resource="tasks", page_size=1))).message.rows[0]
    place = pb.ListPosition(created_at=first.created_at, id=first.id)

    assert await ids(verbs(), resource="tasks", after=place) == ["t2", "t3"]


async def test_a_page_is_cut_at_a_mebibyte_and_the_rest_pages() -> None:
    """Rows that fill a page end it early; nothing is lost or doubled."""
    provider = ListedProvider([row(f"r{i}", age=i, text="x" * 300_000) for i in range(7)])
    seen: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        reply = await verbs(provider).list(GRANT, pb.ListRequest(resource="tasks", page_token=token))
        assert reply.message.ByteSize() <= PAGE_BYTES + 200
        seen += [found.id for found in reply.message.rows]
        token, pages = reply.message.next_page_token, pages + 1

    assert seen == [f"r{i}" for i in range(7)]
    assert pages == 3


async def test_a_row_larger_than_a_page_comes_alone() -> None:
    """A page holds at least one row, so a large row never stops the paging."""
    provider = ListedProvider([row("big", age=0, text="x" * (PAGE_BYTES + 1)), row("small", age=1)])

    first = (await verbs(provider).list(GRANT, pb.ListRequest(resource="tasks"))).message

    assert [found.id for found in first.rows] == ["big"]
    assert await ids(verbs(provider), resource="tasks", page_token=first.next_page_token) == ["small"]


async def test_a_page_of_wide_characters_that_fits_is_not_cut() -> None:
    """If the quick upper bound exceeds the page size, the encoded size decides."""
    provider = ListedProvider([row(f"r{i}", age=i, text="x" * 30_000) for i in range(20)])

    assert len(await ids(verbs(provider), resource="tasks")) == 20


async def test_a_provider_that_gives_too_much_is_held_to_the_limit() -> None:
    """More rows than asked for are cut, and the cut rows are on the next page."""

    class Generous(ListedProvider):
        async def list(self, subject: str, query: ListQuery) -> Page[Row]:
            return await super().list(subject, replace(query, limit=100))

    provider = Generous([row(f"r{i}", age=i) for i in range(3)])
    first = (await verbs(provider).list(GRANT, pb.ListRequest(resource="tasks", page_size=2))).message

    assert [found.id for found in first.rows] == ["r0", "r1"]
    assert await ids(verbs(provider), resource="tasks", page_token=first.next_page_token) == ["r2"]


async def test_hidden_filtered_and_absent_rows_are_alike() -> None:
    """Another user's row, a row outside the scope and no row at all give the same refusal after the same query."""
    provider = sample_rows()
    refusals = [
        await refusal_of(verbs(provider).get(GRANT, pb.GetRequest(resource=resource, id=row_id)))
        for resource, row_id in (("tasks", "e1"), ("tasks", "x1"), ("notes", "n2"), ("tasks", "none"))
    ]

    assert {(r.reason, r.message, r.detail) for r in refusals} == {
        (Reason.ROW_NOT_FOUND, "no such row that this grant may read", "")
    }
    assert [call[0] for call in provider.calls] == ["get"] * 4


@pytest.mark.parametrize("resource", ["credentials", "memory", "nonsense"])
async def test_a_resource_that_the_grant_does_not_open_is_a_violation(resource: str) -> None:
    """Sensitive, known but unnamed, and unknown resources are refused by each verb, and the provider is not asked."""
    provider = sample_rows()
    served = verbs(provider)
    refusals = [
        await refusal_of(served.list(GRANT, pb.ListRequest(resource=resource))),
        await refusal_of(served.get(GRANT, pb.GetRequest(resource=resource, id="t1"))),
        await refusal_of(served.search(GRANT, pb.SearchRequest(query="x", resources=["tasks", resource]))),
    ]

    assert {refusal.reason for refusal in refusals} == {Reason.SCOPE_VIOLATION}
    assert provider.calls == []


async def test_an_excluded_resource_is_a_violation() -> None:
    """Exclusion wins over naming."""
    refusal = await refusal_of(verbs().list(scoped(excluded_resources=("tasks",)), pb.ListRequest(resource="tasks")))

    assert refusal.reason is Reason.SCOPE_VIOLATION


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("resource", pb.ListRequest()),
        ("resource", pb.ListRequest(resource="t" * 65)),
        ("resource", pb.ListRequest(resource="ta\0sks")),
        ("page_size", pb.ListRequest(resource="tasks", page_size=-1)),
        ("where", pb.ListRequest(resource="tasks", where={f"k{i}": "v" for i in range(17)})),
        ("where", pb.ListRequest(resource="tasks", where={"": "v"})),
        ("where", pb.ListRequest(resource="tasks", where={"k" * 129: "v"})),
        ("where.k", pb.ListRequest(resource="tasks", where={"k": "v" * 1_025})),
        ("where.k", pb.ListRequest(resource="tasks", where={"k": "\0"})),
        ("page_token", pb.ListRequest(resource="tasks", page_token="forged")),
        ("after.id", pb.ListRequest(resource="tasks", after=pb.ListPosition())),
        ("after.created_at", pb.ListRequest(resource="tasks", after=pb.ListPosition(id="t1"))),
        ("after.created_at", pb.ListRequest(resource="tasks", after={"id": "t1", "created_at": {"nanos": 1}})),
        ("id", pb.GetRequest(resource="tasks")),
        ("id", pb.GetRequest(resource="tasks", id="i" * 1_025)),
        ("id", pb.GetRequest(resource="tasks", id="\0")),
        ("resource", pb.GetRequest(id="t1")),
        ("query", pb.SearchRequest()),
        ("query", pb.SearchRequest(query=" \t")),
        ("query", pb.SearchRequest(query="q" * 1_025)),
        ("resources", pb.SearchRequest(query="q", resources=[f"r{i}" for i in range(17)])),
        ("resources", pb.SearchRequest(query="q", resources=["tasks", ""])),
        ("page_size", pb.SearchRequest(query="q", page_size=-5)),
        ("page_token", pb.SearchRequest(query="q", page_token="forged")),
    ],
)
async def test_a_malformed_request_names_its_field(field: str, request_: Any) -> None:
    """Each fault is INVALID_REQUEST, begins with the field, and never reaches the provider."""
    provider = sample_rows()
    handler = {pb.ListRequest: "list", pb.GetRequest: "get", pb.SearchRequest: "search"}[type(request_)]

    refusal = await refusal_of(getattr(verbs(provider), handler)(GRANT, request_))

    assert refusal.reason is Reason.INVALID_REQUEST
    assert refusal.message.startswith(f"{field}: ")
    assert provider.calls == []


async def test_where_at_its_bounds_passes() -> None:
    """16 fields with values of 1 kB are a request like any other."""
    assert await ids(verbs(), resource="tasks", where={f"k{i}": "v" * 1_024 for i in range(16)}) == []


async def test_a_search_covers_what_it_names_or_all_that_is_open() -> None:
    """No resources means every open one, each with its own filter; names narrow, and one named twice counts once."""
    provider = sample_rows()
    everywhere = (await verbs(provider).search(GRANT, pb.SearchRequest(query="t"))).message
    notes = (await verbs(provider).search(GRANT, pb.SearchRequest(query="t", resources=["notes", "notes"]))).message

    assert [hit.row.id for hit in everywhere.hits] == ["t1", "t2", "t3", "n1", "k1"]
    assert [hit.row.id for hit in notes.hits] == ["n1"]
    assert set(provider.calls[0][2].filters) == {"tasks", "notes", "api_keys"}
    assert (everywhere.hits[0].score, everywhere.hits[0].snippet) == (1.0, "[t]")


async def test_a_search_pages_by_its_token() -> None:
    """Hits come once each, and the token belongs to this query alone."""
    first = (await verbs().search(GRANT, pb.SearchRequest(query="task", page_size=2))).message
    second = (await verbs().search(GRANT, pb.SearchRequest(query="task", page_token=first.next_page_token))).message

    assert [hit.row.id for hit in [*first.hits, *second.hits]] == ["t1", "t2", "t3"]
    assert second.next_page_token == ""
    for other in (pb.SearchRequest(query="note"), pb.SearchRequest(query="task", resources=["tasks"])):
        other.page_token = first.next_page_token
        assert (await refusal_of(verbs().search(GRANT, other))).message.startswith("page_token")


async def test_a_search_under_a_grant_that_opens_nothing_finds_nothing() -> None:
    """With every resource excluded the provider is not asked."""
    provider = sample_rows()
    shut = replace(GRANT, scope=Scope(("tasks",), ("tasks",)))

    reply = await verbs(provider).search(shut, pb.SearchRequest(query="task"))

    assert list(reply.message.hits) == []
    assert provider.calls == []


async def test_capabilities_tell_what_the_grant_opens() -> None:
    """Open and excluded resources, the cap, the verbs, and who answers."""
    grant = scoped(excluded_resources=("credentials", "notes"), max_rows_per_query=9)

    told = (await verbs().capabilities(grant, pb.CapabilitiesRequest())).message

    assert list(told.resources) == ["tasks", "api_keys"]
    assert list(told.excluded_resources) == ["credentials", "notes"]
    assert told.max_rows_per_query == 9
    assert list(told.verbs) == ["list", "get", "search", "capabilities"]
    assert (told.gateway, told.gateway_version) == ("work.example", "1.2.3")


async def test_the_place_of_a_token_reaches_the_provider() -> None:
    """A list's token names the last row of its page."""
    provider = sample_rows()
    first = (await verbs(provider).list(GRANT, pb.ListRequest(resource="tasks", page_size=1))).message

    await ids(verbs(provider), resource="tasks", page_token=first.next_page_token)

    assert provider.calls[1][2].after == Position(first.rows[0].created_at.ToMicroseconds(), "t1")

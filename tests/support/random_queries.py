"""Random queries of employees, and the answer that each may get, computed from data and scopes alone."""

from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from federation.errors import InputError, NotFoundError
from federation.session.validation import Request
from federation.v1 import federation_pb2
from tests.support.employee_data import (
    EMPLOYEES,
    GATEWAYS,
    RESOURCES,
    STATES,
    WORDS,
    WORK,
    Employee,
    Record,
    allowed_resources,
    merged,
    visible_rows,
)
from tests.support.employee_gateways import CAPABILITIES, QueryAnswer

PEER_NAMES: Final = frozenset(name for person in EMPLOYEES for name in person.peers)
OWN: Final = tuple(f"federated:{name}" for name in sorted(PEER_NAMES))
SOURCES: Final = (
    *("all", "all", "all", "local", f"federated:{WORK}", *OWN) * 4,
    *("federated:dan-desk.example", "federated:adas-desk", "federated:wrk.example", "federated:ben.example"),
    *("federated:127.0.0.1", "federated:", "nowhere"),
)
WHERES: Final[tuple[dict[str, str], ...]] = (
    *({},) * 6,
    *({"owner": user} for user in GATEWAYS[WORK].users),
    *({"team": team} for team in ("", *GATEWAYS[WORK].teams)),
    *({"status": state} for state in STATES),
    {"owner": "eve", "team": "gold"},
    {"owner": "dan", "team": "red"},
    {"id": "row-7"},
    {"secret": GATEWAYS["ada.example"].rows[-1].data["secret"]},
    {"title": GATEWAYS[WORK].rows[0].data["title"], "status": STATES[0]},
)
TEXTS: Final = (
    *("common", *WORDS, "open"),
    *(f"{user}word" for user in GATEWAYS[WORK].users),
    *(f"{team}team common" for team in GATEWAYS[WORK].teams),
    *(row.data["secret"].split()[0] for gateway in GATEWAYS.values() for row in gateway.rows[::9]),
)
IDS: Final = ("absent", *(row.id for row in GATEWAYS[WORK].rows))


@dataclass(frozen=True)
class RandomQuery:
    """One query as Hypothesis drew it.

    `token` selects a page token of an earlier answer. `reuse` tells how much of the earlier query is repeated with the
    token: nothing, the question, also the source, or also the user.
    """

    who: Employee
    session: int
    by_socket: bool
    verb: str
    resource: str
    where: dict[str, str]
    row_id: str
    text: str
    every: bool
    size: int
    source: str
    token: int | None
    reuse: str

    @property
    def question(self) -> tuple[Any, ...]:
        """The context that a page token is bound to: user, verb, sources and question."""
        if self.verb == "list":
            asked: tuple[Any, ...] = (self.resource, sorted(self.where.items()))
        else:
            asked = (self.text, self.every or self.resource)
        return self.who.name, self.verb, named_sources(self.who, self.source), asked


def named_sources(who: Employee, source: str) -> tuple[str, ...] | type[Exception]:
    """The sources that an argument names for a person, or the expected error. Peers of other users are unknown."""
    if source == "all":
        return ("local", *(f"federated:{name}" for name in sorted(who.peers)))
    name = source.removeprefix("federated:")
    if source == "local" or (name in who.peers and name != source):
        return (source,)
    if not name or name == source:
        return InputError
    if name != "127.0.0.1":
        return NotFoundError
    return (f"federated:{next(iter(who.peers))}",) if len(who.peers) == 1 else InputError


def request_of(query: RandomQuery, token: str) -> Request:
    """The request message of a query."""
    match query.verb:
        case "list":
            return federation_pb2.ListRequest(
                resource=query.resource, where=query.where, page_size=query.size, page_token=token
            )
        case "get":
            return federation_pb2.GetRequest(resource=query.resource, id=query.row_id)
        case "search":
            resources = () if query.every else (query.resource,)
            return federation_pb2.SearchRequest(
                query=query.text, resources=resources, page_size=query.size, page_token=token
            )
        case _:
            return CAPABILITIES


def expected(query: RandomQuery, sources: tuple[str, ...]) -> dict[str, tuple[Record, ...] | None]:
    """The rows that a query may return by source; `None` where the grant does not allow the resource."""
    named = set() if query.verb == "capabilities" or (query.verb == "search" and query.every) else {query.resource}

    def fits(row: Record) -> bool:
        if named and row.resource not in named:
            return False
        if query.verb == "search":
            return row.words.issuperset(query.text.split())
        return row.has(query.where) if query.verb == "list" else row.id == query.row_id

    return {
        source: tuple(filter(fits, visible_rows(query.who, source)))
        if named <= allowed_resources(query.who, source)
        else None
        for source in sources
    }


def check_answer(
    query: RandomQuery, answer: QueryAnswer, sources: tuple[str, ...], before: tuple[tuple[str, Record], ...]
) -> None:
    """Assert that an answer has exactly the rows that data and scopes allow."""
    allowed = expected(query, sources)
    assert answer.reasons.keys() <= set(sources)
    for source, reason in answer.reasons.items():
        absent = query.verb == "get" and not allowed[source]
        assert reason == ("SCOPE_VIOLATION" if allowed[source] is None and query.verb != "capabilities" else
                          "ROW_NOT_FOUND" if absent else ""), (query, source, reason)  # fmt: skip
    if query.verb == "capabilities":
        assert answer.opened == {source: allowed_resources(query.who, source) for source in sources}
        assert not answer.rows
        return
    order = merged({source: rows for source, rows in allowed.items() if rows is not None})
    given_now = [*before, *answer.rows]
    if query.verb == "search":
        assert all(pair in order for pair in answer.rows), (query, answer.rows)
        assert len({(source, row.resource, row.id) for source, row in given_now}) == len(given_now)
        order = [*given_now, *(pair for pair in order if pair not in given_now)]
    assert given_now == order[: len(given_now)], (query, answer.rows)
    assert answer.token or len(given_now) == len(order), (query, answer.rows)
    for snippet, words in answer.snippets:
        assert set(snippet.translate({ord(c): None for c in "[]…"}).split()) <= words, (query, snippet)


RANDOM_QUERIES: Final = st.builds(
    RandomQuery,
    who=st.sampled_from(EMPLOYEES),
    session=st.sampled_from((0, 1)),
    by_socket=st.sampled_from((False, False, False, True)),
    verb=st.sampled_from((*("list",) * 5, *("get",) * 3, *("search",) * 2, "capabilities")),
    resource=st.sampled_from(RESOURCES),
    where=st.sampled_from(WHERES),
    row_id=st.sampled_from(IDS),
    text=st.sampled_from(TEXTS),
    every=st.booleans(),
    size=st.sampled_from((0, 1, 2, 5, 50, 1_000)),
    source=st.sampled_from(SOURCES),
    token=st.sampled_from((*(None,) * 40, *range(40))),
    reuse=st.sampled_from(("user", "user", "source", "question", "nothing")),
)

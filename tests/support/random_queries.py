"""Random queries of employees, and what each may bring, worked out from data and scopes alone."""

from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st

from federation.errors import InputError, NotFoundError
from federation.session.validation import Request
from federation.v1 import federation_pb2
from tests.support.employee_data import (
    EMPLOYEES,
    OFFICES,
    RESOURCES,
    STATES,
    WORDS,
    WORK,
    Employee,
    Record,
    in_order,
    opened,
    visible,
)
from tests.support.employee_gateways import CAPABILITIES, Got

NAMES: Final = frozenset(name for person in EMPLOYEES for name in person.peers)
OWN: Final = tuple(f"federated:{name}" for name in sorted(NAMES))
SOURCES: Final = (
    *("all", "all", "all", "local", f"federated:{WORK}", *OWN) * 4,
    *("federated:dan-desk.example", "federated:adas-desk", "federated:wrk.example", "federated:ben.example"),
    *("federated:127.0.0.1", "federated:", "nowhere"),
)
WHERES: Final[tuple[dict[str, str], ...]] = (
    *({},) * 6,
    *({"owner": user} for user in OFFICES[WORK].users),
    *({"team": team} for team in ("", *OFFICES[WORK].teams)),
    *({"status": state} for state in STATES),
    {"owner": "eve", "team": "gold"},
    {"owner": "dan", "team": "red"},
    {"id": "row-7"},
    {"secret": OFFICES["ada.example"].rows[-1].data["secret"]},
    {"title": OFFICES[WORK].rows[0].data["title"], "status": STATES[0]},
)
TEXTS: Final = (
    *("common", *WORDS, "open"),
    *(f"{user}word" for user in OFFICES[WORK].users),
    *(f"{team}team common" for team in OFFICES[WORK].teams),
    *(row.data["secret"].split()[0] for office in OFFICES.values() for row in office.rows[::9]),
)
IDS: Final = ("absent", *(row.id for row in OFFICES[WORK].rows))


@dataclass(frozen=True)
class Ask:
    """One query as it was drawn.

    `token` picks a page token that somebody was given before. `taken` says how much of that query comes with it:
    nothing, what is asked, its source too, or its source and its user too.
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
    taken: str

    @property
    def question(self) -> tuple[Any, ...]:
        """What a page token is bound to."""
        if self.verb == "list":
            asked: tuple[Any, ...] = (self.resource, sorted(self.where.items()))
        else:
            asked = (self.text, self.every or self.resource)
        return self.who.name, self.verb, meant(self.who, self.source), asked


def meant(who: Employee, source: str) -> tuple[str, ...] | type[Exception]:
    """The sources that an argument names to a person, or the error: nobody else's peer is known."""
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


def request_of(ask: Ask, token: str) -> Request:
    """The request of a query."""
    match ask.verb:
        case "list":
            return federation_pb2.ListRequest(
                resource=ask.resource, where=ask.where, page_size=ask.size, page_token=token
            )
        case "get":
            return federation_pb2.GetRequest(resource=ask.resource, id=ask.row_id)
        case "search":
            resources = () if ask.every else (ask.resource,)
            return federation_pb2.SearchRequest(
                query=ask.text, resources=resources, page_size=ask.size, page_token=token
            )
        case _:
            return CAPABILITIES


def expected(ask: Ask, sources: tuple[str, ...]) -> dict[str, tuple[Record, ...] | None]:
    """Every row that a query may bring by source, `None` where the grant does not open what was asked."""
    named = set() if ask.verb == "capabilities" or (ask.verb == "search" and ask.every) else {ask.resource}

    def fits(row: Record) -> bool:
        if named and row.resource not in named:
            return False
        if ask.verb == "search":
            return row.words.issuperset(ask.text.split())
        return row.has(ask.where) if ask.verb == "list" else row.id == ask.row_id

    return {
        source: tuple(filter(fits, visible(ask.who, source))) if named <= opened(ask.who, source) else None
        for source in sources
    }


def check_answer(ask: Ask, got: Got, sources: tuple[str, ...], before: tuple[tuple[str, Record], ...]) -> None:
    """Compare an answer with what the data and the scopes allow: nothing beyond it, and nothing missing."""
    allowed = expected(ask, sources)
    assert got.told.keys() <= set(sources)
    for source, reason in got.told.items():
        absent = ask.verb == "get" and not allowed[source]
        assert reason == ("SCOPE_VIOLATION" if allowed[source] is None and ask.verb != "capabilities" else
                          "ROW_NOT_FOUND" if absent else ""), (ask, source, reason)  # fmt: skip
    if ask.verb == "capabilities":
        assert got.opened == {source: opened(ask.who, source) for source in sources}
        assert not got.rows
        return
    order = in_order({source: rows for source, rows in allowed.items() if rows is not None})
    given_now = [*before, *got.rows]
    if ask.verb == "search":
        assert all(pair in order for pair in got.rows), (ask, got.rows)
        assert len({(source, row.resource, row.id) for source, row in given_now}) == len(given_now)
        order = [*given_now, *(pair for pair in order if pair not in given_now)]
    assert given_now == order[: len(given_now)], (ask, got.rows)
    assert got.token or len(given_now) == len(order), (ask, got.rows)
    for snippet, words in got.snippets:
        assert set(snippet.translate({ord(c): None for c in "[]…"}).split()) <= words, (ask, snippet)


ASKS: Final = st.builds(
    Ask,
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
    taken=st.sampled_from(("user", "user", "source", "question", "nothing")),
)

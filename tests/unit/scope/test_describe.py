"""A scope in words: exact for the usual ones, and complete for any."""

import json
import re
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.scope.describe import describe_filter, describe_reads, describe_scope, summarize_scope
from federation.scope.model import KNOWN_RESOURCES, SENSITIVE_RESOURCES, RowFilter, Scope

NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=12)
RESOURCES = st.lists(st.sampled_from(sorted(KNOWN_RESOURCES | SENSITIVE_RESOURCES)), unique=True)


@st.composite
def scopes(draw: st.DrawFn) -> Scope:
    """Any scope that a document can say."""
    resources = draw(RESOURCES.filter(bool))
    filters = draw(
        st.dictionaries(
            st.sampled_from(resources),
            st.builds(RowFilter, st.none() | st.frozensets(NAMES, max_size=4), st.booleans()),
        )
    )
    return Scope(
        resources=tuple(resources),
        excluded_resources=tuple(draw(RESOURCES)),
        max_rows_per_query=draw(st.integers(1, 1_000)),
        filters=filters,
        rate_limit_per_minute=draw(st.integers(1, 1_000_000)),
    )


LIMITS = ("at most 100 rows a query", "600 calls a minute")
TABLE: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"resources": ["tasks"]}, ("reads tasks: all that ada may", *LIMITS)),
    ({"resources": ["tasks", "notes", "memory"]}, ("reads tasks, notes and memory: all that ada may", *LIMITS)),
    (
        {
            "resources": ["tasks", "notes"],
            "excluded_resources": ["credentials"],
            "filters": {
                "tasks": {"include_teams": ["T1"], "include_personal": True},
                "notes": {"include_teams": ["T1"], "include_personal": True},
            },
        },
        ("reads tasks and notes of team T1 and ada's personal rows", *LIMITS, "never credentials"),
    ),
    (
        {
            "resources": ["tasks", "notes"],
            "filters": {"tasks": {"include_teams": ["T2", "T1"]}, "notes": {"include_personal": False}},
            "max_rows_per_query": 1,
            "rate_limit_per_minute": 1,
        },
        (
            "reads tasks of teams T1, T2, no personal rows",
            "reads notes: all that ada may, no personal rows",
            "at most 1 row a query",
            "1 call a minute",
        ),
    ),
    (
        {"resources": ["notes"], "filters": {"notes": {"include_teams": [], "include_personal": True}}},
        ("reads notes: ada's personal rows alone", *LIMITS),
    ),
    (
        {"resources": ["notes"], "filters": {"notes": {"include_teams": []}}},
        ("reads no row of notes: no team is named, and personal rows are left out", *LIMITS),
    ),
    (
        {"resources": ["api_keys", "credentials"], "excluded_resources": ["api_keys"]},
        ("reads credentials: all that ada may", *LIMITS, "credentials never cached", "never api_keys"),
    ),
    (
        {"resources": ["tasks"], "excluded_resources": ["tasks"]},
        ("reads nothing: every resource that it names is excluded", *LIMITS, "never tasks"),
    ),
]


@pytest.mark.parametrize(("document", "words"), TABLE, ids=[words[0] for _, words in TABLE])
def test_a_scope_is_described_in_sentences(document: dict[str, Any], words: tuple[str, ...]) -> None:
    """Readable resources, limits and exclusions; resources with the same filter share a sentence."""
    assert describe_scope(Scope.parse(json.dumps(document)), "ada") == words


def test_the_summary_contains_the_whole_description() -> None:
    """The summary contains reads, limits and exclusions; without a name it says `the subject`."""
    scope = Scope.parse('{"resources": ["tasks", "notes"], "filters": {"tasks": {"include_teams": ["T1"]}}}')

    assert summarize_scope(scope) == (
        "reads tasks of team T1, no personal rows; reads notes: all that the subject may, "
        "at most 100 rows a query, 600 calls a minute"
    )


@given(scopes(), NAMES | st.just(""))
def test_a_description_is_complete(scope: Scope, subject: str) -> None:
    """It never raises, and leaves out no resource, no team of an open one, no limit and no exclusion."""
    sentences = describe_scope(scope, subject)
    line = summarize_scope(scope, subject)

    assert all(sentence in line and sentence for sentence in sentences)
    assert f"at most {scope.max_rows_per_query} row" in line
    assert f"{scope.rate_limit_per_minute} call" in line
    closed = next((words for words in sentences if words.startswith("never ")), "")
    assert all(name in closed for name in scope.excluded_resources)
    for name in scope.open_resources:
        said = [
            words
            for words in describe_reads(scope, subject)
            if words.startswith("reads ") and name in words.split(":")[0]
        ]
        row_filter = scope.check(name)
        assert said, (name, sentences)
        assert all(any(spelled(team) in words for words in said) for team in row_filter.include_teams or ())
    for name in set(scope.open_resources) & SENSITIVE_RESOURCES:
        assert any(name in words and words.endswith(" never cached") for words in sentences)


NASTY = (
    "T1",
    "T2",
    "T1, T2",
    "and",
    "T1 and ada's personal rows",
    "T1, no personal rows",
    'T1"',
    "T1: all that ada may",
)
RESTS = {
    ": all that ada may": (True, True),
    ": all that ada may, no personal rows": (True, False),
    " and ada's personal rows": (False, True),
    ", no personal rows": (False, False),
    ": ada's personal rows alone": (False, True),
    ": no team is named, and personal rows are left out": (False, False),
}
"""How a sentence may end; whether rows of any team are read, and whether personal ones are."""
TEAM = r'(?:\w+|"(?:[^"\\]|\\.)*")'
READS = re.compile(
    r"reads (?:no row of )?(?P<names>\w+(?:, \w+)*(?: and \w+)?)"
    rf"(?: of teams? (?P<teams>{TEAM}(?:, {TEAM})*))?(?P<rest>{'|'.join(map(re.escape, RESTS))})"
)


def spelled(team: str) -> str:
    """A team's name as a sentence has it: an odd one in quotes."""
    return team if re.fullmatch(r"\w[\w.@/+-]*", team) else json.dumps(team, ensure_ascii=False)


def claimed(words: tuple[str, ...]) -> dict[str, tuple[bool, frozenset[str], bool]]:
    """The scope that the text states: for each resource whether every team, which teams, and personal rows."""
    claims = {}
    for sentence in words:
        said = READS.fullmatch(sentence)
        assert said, sentence
        named = frozenset(json.loads(team) if '"' in team else team for team in re.findall(TEAM, said["teams"] or ""))
        every, personal = RESTS[said["rest"]]
        for name in re.split(r", | and ", said["names"]):
            claims[name] = (every, named, personal)
    return claims


FILTERS = [
    RowFilter(None if teams is None else frozenset(teams), personal)
    for teams in (None, *(chosen for size in range(4) for chosen in combinations(NASTY, size)))
    for personal in (True, False)
]


def test_a_description_matches_the_rows_that_the_filter_admits() -> None:
    """For every filter, with names that imitate the words round them: the same rows, of the same resources."""
    for number, row_filter in enumerate(FILTERS):
        other = FILTERS[(7 * number + 1) % len(FILTERS)]
        scope = Scope(
            resources=("tasks", "notes", "memory"),
            filters={"tasks": row_filter, "notes": other},
            excluded_resources=("memory",) if number % 2 else (),
        )
        claims = claimed(describe_reads(scope, "ada"))
        assert set(claims) == set(scope.open_resources)
        for name, (every, named, personal) in claims.items():
            decides = scope.check(name)
            assert personal == decides.admits("")
            assert [every or team in named for team in (*NASTY, "T9")] == [
                decides.admits(team) for team in (*NASTY, "T9")
            ], (name, decides)


def test_different_filters_have_different_descriptions() -> None:
    """The description of a filter identifies it."""
    assert len({describe_filter(row_filter) for row_filter in FILTERS}) == len(FILTERS)


@pytest.mark.parametrize("subject", ["no body", "ada may, no personal rows", 'a"da'])
def test_an_unusual_subject_is_quoted(subject: str) -> None:
    """A name that imitates the words around it is recognizable as a name."""
    (sentence,) = describe_reads(Scope(resources=("tasks",)), subject)

    assert sentence == f"reads tasks: all that {json.dumps(subject)} may"


@given(scopes())
def test_a_description_mentions_excluded_personal_rows(scope: Scope) -> None:
    """A sentence says that personal rows are left out exactly where the filter leaves them out."""
    for name in scope.open_resources:
        alone = Scope(resources=(name,), filters={name: scope.check(name)})
        (sentence,) = describe_reads(alone, "ada")
        opened = not ("no personal rows" in sentence or "personal rows are left out" in sentence)
        assert opened == scope.check(name).include_personal

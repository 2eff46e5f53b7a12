"""A scope in words: exact for the usual ones, and complete for any."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.scope import KNOWN_RESOURCES, SENSITIVE_RESOURCES, RowFilter, Scope
from federation.scope_words import reads_words, scope_line, scope_words

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
            "reads notes of every team, no personal rows",
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
def test_a_scope_is_said_in_sentences(document: dict[str, Any], words: tuple[str, ...]) -> None:
    """What is read, its limits, and what stays closed; resources that are read alike share a sentence."""
    assert scope_words(Scope.parse(json.dumps(document)), "ada") == words


def test_one_line_holds_all_of_it() -> None:
    """The line is what an operator is asked to agree to; without a name it speaks of the subject."""
    scope = Scope.parse('{"resources": ["tasks", "notes"], "filters": {"tasks": {"include_teams": ["T1"]}}}')

    assert scope_line(scope) == (
        "reads tasks of team T1, no personal rows; reads notes: all that the subject may, "
        "at most 100 rows a query, 600 calls a minute"
    )


@given(scopes(), NAMES | st.just(""))
def test_any_scope_is_named_whole(scope: Scope, subject: str) -> None:
    """It never raises, and leaves out no resource, no team of an open one, no limit and no exclusion."""
    sentences = scope_words(scope, subject)
    line = scope_line(scope, subject)

    assert all(sentence in line and sentence for sentence in sentences)
    assert f"at most {scope.max_rows_per_query} row" in line
    assert f"{scope.rate_limit_per_minute} call" in line
    closed = next((words for words in sentences if words.startswith("never ")), "")
    assert all(name in closed for name in scope.excluded_resources)
    for name in scope.open_resources:
        said = [
            words for words in reads_words(scope, subject) if words.startswith("reads ") and name in words.split(":")[0]
        ]
        row_filter = scope.check(name)
        assert said, (name, sentences)
        assert all(any(team in words for words in said) for team in row_filter.include_teams or ())
    for name in set(scope.open_resources) & SENSITIVE_RESOURCES:
        assert any(name in words and words.endswith(" never cached") for words in sentences)


@given(scopes())
def test_words_tell_personal_rows_apart(scope: Scope) -> None:
    """A sentence says that personal rows are left out exactly where the filter leaves them out."""
    for name in scope.open_resources:
        alone = Scope(resources=(name,), filters={name: scope.check(name)})
        (sentence,) = reads_words(alone, "ada")
        opened = not ("no personal rows" in sentence or "personal rows are left out" in sentence)
        assert opened == scope.check(name).include_personal

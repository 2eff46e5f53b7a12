import json

import pytest

from federation.errors import InputError, Reason, Refusal
from federation.scope.model import RowFilter, Scope

FULL = {
    "resources": ["tasks", "notes"],
    "excluded_resources": ["credentials"],
    "max_rows_per_query": 100,
    "filters": {"tasks": {"include_teams": ["T1"], "include_personal": True}},
    "rate_limit_per_minute": 600,
}


def test_a_full_document_is_read_and_written_without_loss() -> None:
    """Parsing, writing and parsing again gives the same scope."""
    scope = Scope.parse(json.dumps(FULL))

    assert json.loads(scope.to_json()) == FULL
    assert Scope.parse(scope.to_json()) == scope


def test_defaults_stand_for_what_is_left_out() -> None:
    """A document needs nothing but resources."""
    scope = Scope.parse('{"resources": ["memory"]}')

    assert (scope.max_rows_per_query, scope.rate_limit_per_minute, scope.excluded_resources) == (100, 600, ())
    assert scope.check("memory") == RowFilter(None, include_personal=True)


def test_naming_teams_opens_only_those_teams() -> None:
    """A filter that names teams excludes personal rows unless it includes them."""
    row_filter = Scope.parse('{"resources": ["tasks"], "filters": {"tasks": {"include_teams": ["T1"]}}}').check("tasks")

    assert [row_filter.admits(team) for team in ("T1", "T2", "")] == [True, False, False]


def test_personal_rows_can_be_left_out_of_all_teams() -> None:
    """A filter may drop personal rows and keep every team."""
    row_filter = Scope.parse('{"resources": ["tasks"], "filters": {"tasks": {"include_personal": false}}}').check(
        "tasks"
    )

    assert [row_filter.admits(team) for team in ("T1", "T2", "")] == [True, True, False]


@pytest.mark.parametrize("resource", ["memory", "credentials", "", "Tasks", "x" * 500])
def test_a_resource_that_is_not_open_is_a_scope_violation(resource: str) -> None:
    """Unnamed, excluded and nonsensical resources are refused alike, in a short message."""
    with pytest.raises(Refusal) as caught:
        Scope.parse(json.dumps(FULL)).check(resource)

    assert caught.value.reason is Reason.SCOPE_VIOLATION
    assert len(caught.value.message) < 200


def test_exclusion_beats_a_listed_resource() -> None:
    """A resource that is both listed and excluded is not open."""
    scope = Scope.parse('{"resources": ["tasks", "api_keys"], "excluded_resources": ["api_keys"]}')

    assert scope.open_resources == ("tasks",)
    assert scope.warnings == ()


def test_opening_secrets_is_warned_about() -> None:
    """Each sensitive resource that a scope opens gets its own sentence."""
    warnings = Scope.parse('{"resources": ["tasks", "credentials", "api_keys"]}').warnings

    assert len(warnings) == 2
    assert "credentials" in warnings[0]


@pytest.mark.parametrize(("asked", "given"), [(0, 30), (10, 10), (30, 30), (31, 30), (1_000_000, 30)])
def test_the_cap_bounds_every_page_size(asked: int, given: int) -> None:
    """No page size, the default included, is above `max_rows_per_query`."""
    assert Scope.parse('{"resources": ["tasks"], "max_rows_per_query": 30}').cap(asked) == given


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ("{", "scope"),
        ("[]", "scope"),
        ("[" * 100_000, "scope"),
        ("{}", "scope.resources"),
        ('{"resources": []}', "scope.resources"),
        ('{"resources": "tasks"}', "scope.resources"),
        ('{"resources": [1]}', "scope.resources"),
        ('{"resources": ["tsks"]}', "scope.resources"),
        ('{"resources": ["tasks", "tasks"]}', "scope.resources"),
        ('{"resources": ["tasks"], "resources": ["notes"]}', "scope.resources"),
        ('{"resources": ["tasks"], "resource": []}', "scope.resource"),
        ('{"resources": ["tasks"], "excluded_resources": ["taks"]}', "scope.excluded_resources"),
        ('{"resources": ["tasks"], "\\ud800": 1}', r"scope.\ud800"),
        ('{"resources": ["tasks"], "\\ud800": 1, "\\ud800": 2}', r"scope.\ud800"),
        ('{"resources": ["tasks"], "filters": {"\\ud800": {}}}', r"scope.filters.\ud800"),
        (
            '{"resources": ["tasks"], "filters": {"tasks": {"include_teams": ["\\ud800"]}}}',
            "scope.filters.tasks.include_teams",
        ),
        pytest.param('{"max_rows_per_query": ' + "1" * 5_000 + "}", "scope", id="thousands of digits"),
        ('{"resources": ["tasks"], "max_rows_per_query": 0}', "scope.max_rows_per_query"),
        ('{"resources": ["tasks"], "max_rows_per_query": true}', "scope.max_rows_per_query"),
        ('{"resources": ["tasks"], "max_rows_per_query": 1001}', "scope.max_rows_per_query"),
        ('{"resources": ["tasks"], "rate_limit_per_minute": "many"}', "scope.rate_limit_per_minute"),
        ('{"resources": ["tasks"], "filters": []}', "scope.filters"),
        ('{"resources": ["tasks"], "filters": {"notes": {}}}', "scope.filters.notes"),
        ('{"resources": ["tasks"], "filters": {"tasks": []}}', "scope.filters.tasks"),
        ('{"resources": ["tasks"], "filters": {"tasks": {"teams": []}}}', "scope.filters.tasks.teams"),
        (
            '{"resources": ["tasks"], "filters": {"tasks": {"include_teams": [""]}}}',
            "scope.filters.tasks.include_teams",
        ),
        (
            '{"resources": ["tasks"], "filters": {"tasks": {"include_personal": 1}}}',
            "scope.filters.tasks.include_personal",
        ),
    ],
)
def test_a_wrong_document_names_its_field(document: str, field: str) -> None:
    """Every error of a scope document names the field."""
    with pytest.raises(InputError) as caught:
        Scope.parse(document)

    assert caught.value.field == field
    assert str(caught.value).isprintable()


def test_a_typo_in_an_excluded_resource_is_reported() -> None:
    """A resource must not stay open because its name in the exclusions is misspelled."""
    with pytest.raises(InputError, match="did you mean tasks"):
        Scope.parse('{"resources": ["tasks"], "excluded_resources": ["taks"]}')


def test_a_typo_in_a_field_name_is_reported() -> None:
    """An unknown field comes with the known one that it may have meant; a repeated name is repeated."""
    with pytest.raises(InputError, match="did you mean max_rows_per_query"):
        Scope.parse('{"resources": ["tasks"], "max_row_per_query": 5}')
    with pytest.raises(InputError, match="did you mean include_teams"):
        Scope.parse('{"resources": ["tasks"], "filters": {"tasks": {"include_team": ["T1"]}}}')
    with pytest.raises(InputError, match="names notes twice"):
        Scope.parse('{"resources": ["tasks", "notes", "notes"]}')


def test_a_filter_that_lets_nothing_through_is_warned_about() -> None:
    """A scope that names a resource and opens no row of it is allowed, and most likely a mistake."""
    document = '{"resources": ["tasks", "notes"], "filters": {"tasks": {"include_teams": []}}}'

    assert [words.split()[0] for words in Scope.parse(document).warnings] == ["scope.filters.tasks"]

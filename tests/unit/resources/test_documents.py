import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import InputError
from federation.resources.batch import Batch, Member, NewRow
from federation.resources.documents import MAX_DEPTH, Document, decode, strings

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=4), st.booleans())
def test_data_is_stored_as_given(data: dict[str, object], escaped: bool) -> None:
    """Text that is parsed stays byte for byte; a decoded value is written compactly and means the same."""
    text = json.dumps(data, ensure_ascii=escaped, indent=1)
    if "\\u0000" in text.replace("\\\\", ""):
        return

    document, compact = Document.parse(text), Document.of(decode(text, "data"))

    assert document.text == text
    assert json.loads(compact.text) == data
    assert compact.terms == document.terms


@pytest.mark.parametrize("number", ["1.10", "1e400", "-0", "123456789012345678901234567890", "0.1000000000000000055"])
def test_numbers_are_written_as_they_were(number: str) -> None:
    """No number is rounded, shortened or made infinite."""
    assert Document.of(decode(f'{{ "n" : [ {number} ] }}', "data")).text == f'{{"n":[{number}]}}'


def test_every_string_value_is_searchable() -> None:
    """Nested values count, keys and other scalars do not."""
    text = '{"key": "one", "list": ["two", {"deep": "three"}], "n": 4, "b": true, "z": null}'

    assert list(strings(decode(text, "data"))) == ["one", "two", "three"]
    assert Document.parse(text).terms == "wone wtwo wthree"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "data: not JSON"),
        ("[]", "data: must be a JSON object"),
        ("null", "data: must be a JSON object"),
        ('{"a": 1} x', "data: not JSON: Extra data"),
        ("{'a': 1}", "data: not JSON"),
        ('{"a": NaN}', "data: not JSON: NaN"),
        ('{"a": [-Infinity]}', "data: not JSON: -Infinity"),
        ('{"a": 1, "b": 2, "a": 3}', "data: the key 'a' appears twice"),
        ('{"x": {"a": 1, "\\u0061": 3}}', "data: the key 'a' appears twice"),
        ('{"a": "x\\u0000y"}', "data.a: contains a NUL"),
        ('{"a": {"b": ["\\u0000"]}}', "data.a: contains a NUL"),
        ('{"a\\u0000": 1}', "data: has a key with a NUL"),
        ('{"a": "\\ud800"}', "data.a: contains a NUL character or half a surrogate"),
        ('{"a": "raw\nline"}', "data: not JSON: Invalid control character"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), f"data: nests deeper than {MAX_DEPTH}"),
        ('{"a":' + "[" * 1_000_000, f"data: nests deeper than {MAX_DEPTH}"),
        ('{"a":' * 1_000_000, f"data: nests deeper than {MAX_DEPTH}"),
    ],
)
def test_data_that_a_database_or_reader_cannot_hold_is_refused(text: str, problem: str) -> None:
    """Each fault is reported with its field."""
    with pytest.raises(InputError) as caught:
        Document.parse(text)

    assert str(caught.value).startswith(problem)


def test_nesting_up_to_the_bound_is_fine() -> None:
    """The deepest allowed document passes, and every later reader can take it."""
    text = '{"a":' * MAX_DEPTH + '"deep"' + "}" * MAX_DEPTH

    assert Document.parse(text).terms == "wdeep"
    assert orjson.loads(Document.of(decode(text, "data")).text)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"resource": "task"}, "resource"),
        ({"resource": ""}, "resource"),
        ({"id": ""}, "id"),
        ({"id": "x" * 257}, "id"),
        ({"id": "a\nb"}, "id"),
        ({"id": "a\x00"}, "id"),
        ({"id": "\ud800"}, "id"),
        ({"owner": ""}, "owner"),
        ({"owner": "adä"}, "owner"),
        ({"owner": "a" * 128}, "owner"),
        ({"owner": "ada\n"}, "owner"),
        ({"team": "T\t1"}, "team"),
        ({"created_at_us": 10**18}, "created_at"),
        ({"updated_at_us": -(10**18)}, "updated_at"),
    ],
)
def test_a_row_names_its_wrong_field(change: dict[str, object], field: str) -> None:
    """A row is checked as it is made, so that no writer can store what a reader cannot name."""
    good: dict[str, object] = {"resource": "tasks", "id": "1", "owner": "ada", "data": Document.parse("{}")}
    NewRow(**good)  # type: ignore[arg-type]

    with pytest.raises(InputError) as caught:
        NewRow(**{**good, **change})  # type: ignore[arg-type]

    assert caught.value.field == field


def test_a_near_resource_is_suggested() -> None:
    """The error for a misspelled resource suggests the similar one."""
    with pytest.raises(InputError, match="did you mean tasks"):
        NewRow("taskz", "1", "ada", Document.parse("{}"))


def test_a_batch_checks_names_and_doubles() -> None:
    """A team name must not be empty, which means personal, and a row must not appear twice."""
    row = NewRow("tasks", "1", "ada", Document.parse("{}"))
    for wrong in (
        lambda: Batch(users=[""]),
        lambda: Batch(teams=[""]),
        lambda: Batch(rows=[row, row]),
        lambda: Member("ada", ""),
        lambda: Member("", "T1"),
    ):
        with pytest.raises(InputError):
            wrong()

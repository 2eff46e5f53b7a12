"""Ids and names by prefix: exactly one match, or an error that lists the candidates."""

from typing import Any

import pytest

from federation.admin.lookup import find_grant
from federation.clock import SYSTEM_CLOCK
from federation.errors import InputError, NotFoundError
from federation.scope.model import Scope
from federation.store.grants.model import Grant, GrantStatus
from federation.store.grants.registry import GrantRegistry

REST = "-0d5c-4b8e-9f43-8c1d6c0f1a2b"
UNUSED: Any = None


def registry(*beginnings: str) -> GrantRegistry:
    """Grants with these id prefixes, oldest first."""
    grants = [
        Grant(
            id=f"{beginning}{REST}",
            peer=f"p{number}.example",
            subject="ada",
            scope=Scope(resources=("tasks",)),
            status=GrantStatus.ACTIVE,
            created_at_us=number,
        )
        for number, beginning in enumerate(beginnings)
    ]
    return GrantRegistry(UNUSED, SYSTEM_CLOCK, grants)


def test_a_full_id_is_found() -> None:
    """A full id selects its grant."""
    assert find_grant(registry("6f1c2f0e", "a9e0b7d4"), f"6f1c2f0e{REST}").id == f"6f1c2f0e{REST}"


@pytest.mark.parametrize("given", ["6f1c", "6F1C", " 6f1c2f ", f"6f1c2f0e{REST[:-1]}"])
def test_a_unique_prefix_is_found(given: str) -> None:
    """A prefix of four characters is enough; case and blanks are ignored."""
    assert find_grant(registry("6f1c2f0e", "a9e0b7d4"), given).peer == "p0.example"


def test_an_ambiguous_prefix_lists_the_candidates() -> None:
    """The error lists the newest candidates first, with peer and subject, and the number of further ones."""
    with pytest.raises(InputError) as caught:
        find_grant(registry("6f1c0000", "6f1c1111", "a9e0b7d4"), "6f1c")

    assert str(caught.value) == (
        f"grant: '6f1c' matches 2: 6f1c1111{REST} (p1.example as ada), 6f1c0000{REST} (p0.example as ada); "
        "give more characters"
    )
    with pytest.raises(InputError, match=r"matches 9: .* and 5 more; give more characters"):
        find_grant(registry(*(f"6f1c000{number}" for number in range(9))), "6f1c")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("6f1", "give at least 4 characters of the id; list the grants to find it"),
        ("", "list the grants to find its id"),
        ("2f0e", "list the grants to find its id"),
        ("6f1d", f"did you mean 6f1c2f0e{REST}?"),
        ("x" * 5_000, "list the grants to find its id"),
        ("\x1b[2J", "list the grants to find its id"),
    ],
)
def test_an_unknown_prefix_is_not_found(given: str, message: str) -> None:
    """A short prefix, a part from the middle, a typo and nonsense each give one short line."""
    with pytest.raises(NotFoundError, match=r"^no grant ") as caught:
        find_grant(registry("6f1c2f0e", "a9e0b7d4"), given)

    assert str(caught.value).endswith(message) or message in str(caught.value)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()

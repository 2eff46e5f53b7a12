"""Suggestions for an unknown name or id."""

import uuid
from random import Random

import pytest

from federation.suggest import hint, is_typo, near_ids, near_matches

ID = "6f1c2f0e-0d5c-4b8e-9f43-8c1d6c0f1a2b"
OTHER = "a9e0b7d4-1c33-4f6e-8a52-77d0c4b1e9f8"


@pytest.mark.parametrize(
    "given",
    [
        ID[:-1],
        ID[1:],
        ID.replace("-", ""),
        ID.upper(),
        f" {ID} ",
        ID.replace("9f43", "9f34"),
        "6f1d",
        "6flc2f",
        "6f1c2f0e-0d5c-4b8e-9f43-8c1d6c0f1a2bb",
    ],
)
def test_an_id_with_a_typo_is_found(given: str) -> None:
    """A character lost, swapped, mistyped or too many, in an id or in its prefix."""
    assert near_ids(given, [OTHER, ID]) == (ID,)


@pytest.mark.parametrize("given", ["", "6f1", "6f", "ffff", "0d5c", "7e0d", "hello world", str(uuid.UUID(int=0))])
def test_an_unrelated_id_suggests_nothing(given: str) -> None:
    """Random ids are similar by chance: a merely similar id is a different one."""
    assert near_ids(given, [OTHER, ID]) == ()


def test_random_ids_never_suggest_each_other() -> None:
    """Among a thousand grants a wrong id does not find one by accident."""
    random = Random(7)
    known = [str(uuid.UUID(int=random.getrandbits(128), version=4)) for _ in range(1_000)]

    assert all(near_ids(str(uuid.UUID(int=random.getrandbits(128), version=4)), known) == () for _ in range(20))


def test_the_best_of_several_comes_first() -> None:
    """One edit is better than three."""
    three = ID.replace("9f43", "9000")

    assert near_ids(ID.replace("9f43", "9f44"), [three, ID], most=2) == (ID, three)


def test_case_is_ignored() -> None:
    """`t2` may have meant `T2`."""
    assert near_matches("t2", ["T1", "T2", "Billing"], most=1) == ("T2",)


@pytest.mark.parametrize(
    ("name", "slip"),
    [("hmoe.example", True), ("hom.example", True), ("home.example", False), ("work.example", False)],
)
def test_a_name_with_one_or_two_edits_is_a_typo(name: str, slip: bool) -> None:
    """Names of gateways that differ by more are different gateways."""
    assert is_typo(name, "home.example") is slip


def test_a_hint_names_near_matches_or_what_the_caller_says_otherwise() -> None:
    """One match by default, several joined by `or`, and the given text where no name is near."""
    assert hint("tsks", ["tasks", "notes"]) == "did you mean tasks?"
    assert hint("note", ["notes", "nodes"], most=2) == "did you mean notes or nodes?"
    assert hint("zzz", ["tasks"], "known are tasks") == "known are tasks"
    assert hint("zzz", ["tasks"]) == ""

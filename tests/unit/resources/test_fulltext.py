import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.resources.fulltext import MAX_INDEX, MAX_SNIPPET, fold, index_text, snippet, tokens


def wanted(text: str) -> frozenset[str]:
    """The tokens of a query."""
    return frozenset(tokens(text))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Straße", "STRASSE"),
        ("Café", "cafe\u0301"),
        ("ﬁnance", "Finance"),
        ("ÉCLAIR", "eclair"),
        ("Ωμέγα", "ωΜΕΓΑ"),
        ("ПРИВЕТ", "привет"),
        ("ＡＢＣ１", "abc1"),  # noqa: RUF001 - full width is the point
        ("İzmir", "izmir"),
        ("a" * 64 + "b", "a" * 64 + "c"),
    ],
)
def test_words_that_are_the_same_to_a_reader_have_one_token(one: str, other: str) -> None:
    """Case, accents, width, ligatures, and what stands behind the 64th character make no difference."""
    assert list(tokens(one)) == list(tokens(other))
    assert len(list(tokens(one))) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("foo-bar_baz", ["foo", "bar", "baz"]),
        ("mail ops@work.example, v1.2", ["mail", "ops", "work", "example", "v1", "2"]),
        ("2026-10-05T09:30Z", ["2026", "10", "05t09", "30z"]),
        ("Acme™ rocks", ["acme", "rocks"]),
        ('"AND" NOT (a* OR -b) ^c:d', ["and", "not", "a", "or", "b", "c", "d"]),
        ("a\x00b\ud800c", ["a", "b", "c"]),
        ("🎉 !? … — 。", []),
        ("", []),
    ],
)
def test_everything_but_letters_and_digits_separates_words(text: str, words: list[str]) -> None:
    """Punctuation, operators, symbols and unprintable characters are never part of a word."""
    assert list(tokens(text)) == [f"w{word}" for word in words]


def test_vowel_signs_stay_in_their_words() -> None:
    """Scripts whose vowels are marks are not cut into letters."""
    assert len(list(tokens("हिन्दी भाषा"))) == 2
    assert len(list(tokens("ภาษาไทย"))) == 1


@given(st.text())
def test_tokens_leave_nothing_to_a_tokenizer(text: str) -> None:
    """Any text becomes tokens of lower-case ASCII letters and digits that begin with a letter."""
    assert all(re.fullmatch(r"[wx][a-z0-9]+", token) for token in tokens(text))
    assert fold(fold(text)) == fold(text)


@given(st.text(), st.text())
def test_different_plain_words_never_share_a_token(one: str, other: str) -> None:
    """A coded word cannot be mistaken for another that is written like its code."""
    for word in tokens(one):
        for second in tokens(other):
            assert (word == second) == (word[0] == second[0] and word[1:] == second[1:])
    assert set(tokens("п")).isdisjoint(tokens("xd0bf d0bf wd0bf"))


def test_the_index_text_is_bounded_and_ends_with_a_whole_word() -> None:
    """A row of many words is indexed up to the bound."""
    text = index_text(["word " * 10, "another " * MAX_INDEX])

    assert len(text) <= MAX_INDEX
    assert set(text.split(" ")) == {"wword", "wanother"}


@pytest.mark.parametrize(
    ("strings", "query", "expected"),
    [
        (["Fix the login page"], "LOGIN", "Fix the [login] page"),
        (["a b", "Café crème, café au lait"], "cafe", "[Café] crème, [café] au lait"),
        (["two\n\n lines\tand tabs"], "lines tabs", "two [lines] and [tabs]"),
        (["Acme™ rocks"], "acme", "[Acme]™ rocks"),
        (["cafe\u0301!"], "café", "[cafe\u0301]!"),
        (["nothing here"], "absent", "nothing here"),
        ([], "absent", ""),
        (["", "  ", "second"], "absent", "second"),
    ],
)
def test_a_snippet_shows_the_first_string_that_matches(strings: list[str], query: str, expected: str) -> None:
    """Matched words are in brackets in their original spelling; white space is collapsed."""
    assert snippet(strings, wanted(query)) == expected


def test_a_snippet_of_a_long_text_is_cut_at_words_around_the_match() -> None:
    """Omitted text before and after is marked by ellipses."""
    text = snippet(["lead " * 100 + "needle " + "tail " * 100], wanted("needle"))

    assert text.startswith("…lead ")
    assert text.endswith("tail…")
    assert " [needle] " in text
    assert MAX_SNIPPET // 2 < len(text) <= MAX_SNIPPET


@given(
    st.lists(st.text(st.sampled_from("ab é[]-\n🎉ß"), max_size=400), max_size=4),
    st.text(st.sampled_from("abéß "), max_size=9),
)
def test_a_snippet_is_never_too_long(strings: list[str], query: str) -> None:
    """Whatever the text and the query, the bound holds, and a text that matches shows a bracket."""
    text = snippet(strings, wanted(query))

    assert len(text) <= MAX_SNIPPET
    if wanted(query) & set(index_text(strings).split()):
        assert "[" in text


def test_a_matched_word_longer_than_the_room_keeps_its_brackets() -> None:
    """A word of a thousand characters is cut and still marked."""
    text = snippet(["x" * 1_000], wanted("x" * 1_000))

    assert text.startswith("[xxx")
    assert text.endswith("]…")
    assert len(text) <= MAX_SNIPPET

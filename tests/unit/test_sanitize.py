"""Text that another party wrote, as messages and terminals get it."""

from federation.sanitize import escaped, printable


def test_characters_that_are_not_printable_become_question_marks() -> None:
    """Control characters, line ends and direction marks cannot steer a terminal; letters of any script stay."""
    assert printable("na\x1b[2Jme\n\u202e é漢") == "na?[2Jme?? é漢"


def test_a_long_text_is_cut() -> None:
    """A message has at most 300 characters, or as many as the caller says."""
    assert len(printable("x" * 1_000)) == 300
    assert printable("abc", 2) == "ab"


def test_a_name_is_escaped_to_short_ascii() -> None:
    """A name in a message is ASCII, at most 64 of its characters, and never empty."""
    assert escaped("Zo\xeb\n") == "Zo\\xeb\\n"
    assert escaped("x" * 100) == "x" * 64
    assert escaped("") == "(empty)"

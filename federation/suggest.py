"""Near matches for a name that does not exist, for error messages."""

from collections.abc import Iterable
from typing import Final

__all__ = ["MIN_PREFIX", "is_typo", "near_ids", "near_matches"]

MIN_PREFIX: Final = 4
"""Characters of an id that may stand for the whole of it."""
LONG_ID: Final = 16
"""Characters from which on an id was copied, not typed: more of it may have been lost on the way."""
MAX_TYPO_EDITS: Final = 2
"""Letters, such as a swapped pair, that two names may differ in and still be meant to be one."""
MAX_EDITS: Final = {False: 1, True: 4}


def near_matches(name: str, known: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """Return at most `most` of the known names that `name` may have meant, best first."""
    from rapidfuzz import process

    found = process.extract(name, sorted(set(known)), processor=str.lower, limit=most, score_cutoff=60)
    return tuple(match for match, _, _ in found)


def is_typo(name: str, known: str) -> bool:
    """Tell whether a name differs from a known one so little that it may be a slip of the hand."""
    from rapidfuzz.distance import OSA

    return name != known and OSA.distance(name, known) <= MAX_TYPO_EDITS


def near_ids(given: str, known: Iterable[str], most: int = 1) -> tuple[str, ...]:
    """Return at most `most` of the known ids that `given` is, or begins, but for a slip or two; best first.

    Random ids are alike by chance, so that what helps with names would suggest anything here.
    """
    wanted = given.strip().lower()
    if len(wanted) < MIN_PREFIX:
        return ()
    edits = MAX_EDITS[len(wanted) >= LONG_ID]
    found = sorted((_edits(wanted, one, edits), one) for one in set(known))
    return tuple(one for distance, one in found if distance <= edits)[:most]


def _edits(wanted: str, whole: str, most: int) -> int:
    """Return how many characters of `wanted` are wrong, missing or too many for a beginning of `whole`."""
    from rapidfuzz.distance import OSA

    lengths = range(len(wanted) - most, len(wanted) + most + 1)
    return min(OSA.distance(wanted, whole[:length], score_cutoff=most) for length in lengths)

"""Suggestions of similar names and ids for error messages."""

from collections.abc import Iterable, Sequence
from typing import Final

MIN_PREFIX: Final = 4
"""Minimum length of an id prefix that may identify the id."""
LONG_ID: Final = 16
"""Length from which an id is taken as pasted rather than typed; more characters of a pasted id may be missing."""
MAX_TYPO_EDITS: Final = 2
"""Maximum edit distance of a name from a known name of which it may be a typo; a swapped pair counts once."""
MAX_EDITS: Final = {False: 1, True: 4}
"""Maximum edit distance of an id, by whether it is at least `LONG_ID` long."""


def near_matches(name: str, known: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """Return at most `most` of the known names that are similar to `name`, best first."""
    from rapidfuzz import process

    found = process.extract(name, sorted(set(known)), processor=str.lower, limit=most, score_cutoff=60)
    return tuple(match for match, _, _ in found)


def hint(name: str, known: Iterable[str], otherwise: str = "", *, most: int = 1) -> str:
    """Return `did you mean …?` with at most `most` near matches of a name, or `otherwise` where there is none."""
    near = near_matches(name, known, most)
    return f"did you mean {' or '.join(near)}?" if near else otherwise


def hint_or_known(name: str, known: Sequence[str]) -> str:
    """Return `did you mean …?` with the nearest known name, or `known are …` where none is near."""
    return hint(name, known, f"known are {', '.join(known)}")


def is_typo(name: str, known: str) -> bool:
    """Tell whether a name may be a typo of a known one."""
    from rapidfuzz.distance import OSA

    return name != known and OSA.distance(name, known) <= MAX_TYPO_EDITS


def near_ids(given: str, known: Iterable[str], most: int = 1) -> tuple[str, ...]:
    """Return at most `most` of the known ids of which `given` is the whole or a prefix with few typos, best first.

    The similarity that `near_matches` uses would match unrelated random ids.
    """
    wanted = given.strip().lower()
    if len(wanted) < MIN_PREFIX:
        return ()
    edits = MAX_EDITS[len(wanted) >= LONG_ID]
    found = sorted((_edits(wanted, one, edits), one) for one in set(known))
    return tuple(one for distance, one in found if distance <= edits)[:most]


def _edits(wanted: str, whole: str, most: int) -> int:
    """Return the edit distance of `wanted` from the closest prefix of `whole`."""
    from rapidfuzz.distance import OSA

    lengths = range(len(wanted) - most, len(wanted) + most + 1)
    return min(OSA.distance(wanted, whole[:length], score_cutoff=most) for length in lengths)

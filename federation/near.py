"""Near matches for a name that does not exist, for error messages."""

from collections.abc import Iterable

from rapidfuzz import process

__all__ = ["near_matches"]


def near_matches(name: str, known: Iterable[str], most: int = 3) -> tuple[str, ...]:
    """Return at most `most` of the known names that `name` may have meant, best first."""
    return tuple(match for match, _, _ in process.extract(name, sorted(set(known)), limit=most, score_cutoff=60))

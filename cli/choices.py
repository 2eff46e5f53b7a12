"""An option that takes one of a few words."""

from collections.abc import Callable
from typing import Final

import typer

__all__ = ["GRANT_STATUSES", "PEER_STATES", "one_of", "suggesting"]

GRANT_STATUSES: Final = ("pending", "active", "revoked", "expired")
PEER_STATES: Final = ("active", "offline", "degraded", "revoked", "expired")


def one_of(value: str, words: tuple[str, ...], option: str) -> str:
    """Return the word in lower case; raise a usage error with a near match for any other."""
    word = value.lower()
    if not word or word in words:
        return word
    from federation.near import near_matches

    near = near_matches(word, words, most=1)
    hint = f"did you mean {near[0]}?" if near else f"it is one of {', '.join(words)}"
    raise typer.BadParameter(f"{value!r} is none; {hint}", param_hint=option)


def suggesting(words: tuple[str, ...]) -> Callable[[str], list[str]]:
    """Return what completes one of the words."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete

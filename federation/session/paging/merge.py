"""One order over the pages of several sources, and how far of each it got. Pure.

A source that has more than its page holds back everything behind its last row, because what comes next there may
belong in between. So a page of the whole is exact, if sometimes short, and every row comes exactly once.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.session.paging.cursors import Place
from federation.session.results import SessionRow

__all__ = ["DONE", "Done", "Page", "merge", "remaining_places"]


class Done:
    """What stands for the place of a source that has nothing more."""


DONE: Final = Done()


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one source in its own order. `keys` rises with the rows, and orders those of all sources.

    `more` tells that rows stand behind these. `next_token` is a search's own.
    """

    source: str
    rows: tuple[SessionRow, ...] = ()
    keys: tuple[Any, ...] = ()
    more: bool = False
    next_token: str = ""
    top: float = 1.0


def merge(pages: Iterable[Page], limit: int) -> tuple[tuple[SessionRow, ...], dict[str, int]]:
    """Return at most `limit` rows in the order of all, and how many each source gave."""
    pages = tuple(pages)
    taken = {page.source: 0 for page in pages}
    rows: list[SessionRow] = []
    for _, _, row, is_horizon in heapq.merge(*(_keyed(number, page) for number, page in enumerate(pages))):
        if len(rows) == limit:
            break
        rows.append(row)
        taken[row.source] += 1
        if is_horizon:
            break
    return tuple(rows), taken


def remaining_places(
    before: Mapping[str, Place], after: Mapping[str, Place | Done], answered: Iterable[str]
) -> dict[str, Place]:
    """Return where each source goes on: those that did not answer keep their place.

    When only sources that did not answer have more, there is nothing to go on with: no place is left, and whoever
    wants their rest asks anew when they are back.
    """
    answered = set(answered)
    places: dict[str, Place] = {}
    for source, place in before.items():
        now = after.get(source, place)
        if not isinstance(now, Done):
            places[source] = now
    return places if answered & places.keys() else {}


def _keyed(number: int, page: Page) -> Iterator[tuple[Any, tuple[int, int], SessionRow, bool]]:
    last = len(page.rows) - 1 if page.more else -1
    for index, (key, row) in enumerate(zip(page.keys, page.rows, strict=True)):
        yield key, (number, index), row, index == last

"""One order over the pages of several sources, and how far of each it got. Pure.

A source that has more than its page holds back everything behind its last row, because what comes next there may
belong in between. So a page of the whole is exact, if sometimes short, and every row comes exactly once.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.session.paging.cursors import Cursor
from federation.session.results import SessionRow

__all__ = ["DONE", "Done", "Page", "merge", "remaining_cursors"]


class Done:
    """What stands for the cursor of a source that has nothing more."""


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
    used = {page.source: 0 for page in pages}
    rows: list[SessionRow] = []
    for _, _, row, is_horizon in heapq.merge(*(_keyed(number, page) for number, page in enumerate(pages))):
        if len(rows) == limit:
            break
        rows.append(row)
        used[row.source] += 1
        if is_horizon:
            break
    return tuple(rows), used


def remaining_cursors(
    before: Mapping[str, Cursor], after: Mapping[str, Cursor | Done], answered: Iterable[str]
) -> dict[str, Cursor]:
    """Return where each source goes on: those that did not answer keep their cursor.

    When only sources that did not answer have more, there is nothing to go on with: no cursor is left, and whoever
    wants their rest asks anew when they are back.
    """
    answered = set(answered)
    cursors: dict[str, Cursor] = {}
    for source, cursor in before.items():
        now = after.get(source, cursor)
        if not isinstance(now, Done):
            cursors[source] = now
    return cursors if answered & cursors.keys() else {}


def _keyed(number: int, page: Page) -> Iterator[tuple[Any, tuple[int, int], SessionRow, bool]]:
    last = len(page.rows) - 1 if page.more else -1
    for index, (key, row) in enumerate(zip(page.keys, page.rows, strict=True)):
        yield key, (number, index), row, index == last

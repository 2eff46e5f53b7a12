"""Merges the pages of several sources into one order, and counts the rows used of each source. Pure.

The merge stops after the last row of a page that has a successor, because the next rows of that source may sort
before the rest. A merged page is therefore exact, if sometimes short, and every row appears exactly once.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from federation.session.paging.cursors import Cursor
from federation.session.results import SessionRow


class Done:
    """The type of `DONE`, which replaces the cursor of a source without further rows."""


DONE: Final = Done()


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one source in its own order. `keys` ascend with the rows, and order the rows of all sources.

    `more` tells that further rows follow. For a search, `next_token` is the source's own page token, `top` its best
    score.
    """

    source: str
    rows: tuple[SessionRow, ...] = ()
    keys: tuple[Any, ...] = ()
    more: bool = False
    next_token: str = ""
    top: float = 1.0


def merge(pages: Iterable[Page], limit: int) -> tuple[tuple[SessionRow, ...], dict[str, int]]:
    """Return at most `limit` rows in merged order, and the number of rows used of each source."""
    pages = tuple(pages)
    used = {page.source: 0 for page in pages}
    rows: list[SessionRow] = []
    for _, _, row, is_last in heapq.merge(*(_keyed(number, page) for number, page in enumerate(pages))):
        if len(rows) == limit:
            break
        rows.append(row)
        used[row.source] += 1
        if is_last:
            break
    return tuple(rows), used


def remaining_cursors(
    before: Mapping[str, Cursor], after: Mapping[str, Cursor | Done], answered: Iterable[str]
) -> dict[str, Cursor]:
    """Return the cursor of each source for the next page. Sources that did not answer keep their cursor.

    If only sources that did not answer have further rows, no cursor is left: the caller repeats the request when they
    are available.
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

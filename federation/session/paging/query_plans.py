"""Query plans: for each verb, the request to a source, the page made from its answer, and the next cursor. Pure."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, Final, Generic, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from federation.scope.model import DEFAULT_PAGE_SIZE, MAX_ROWS_LIMIT
from federation.session.paging.cursors import Cursor, ListCursor, SearchCursor
from federation.session.paging.merge import DONE, Done, Page
from federation.session.results import SessionRow
from federation.v1 import federation_pb2 as pb
from federation.verbs.conversion import MAX_SECONDS, MIN_SECONDS
from federation.verbs.validation import MAX_ID
from federation.wire.signed_tokens import context_of

R = TypeVar("R", bound=Message)
NANOSECONDS: Final = 1_000_000_000
MAX_SOURCE_TOKEN: Final = 4_096
MIN_SCORE: Final = 1e-9


class OrderViolationError(Exception):
    """A source's answer violates the wire contract. The message holds no content of the answer."""


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of an answer: its source, and whether and how old it was in the cache."""

    source: str
    cached: bool = False
    age_s: float = 0.0

    def row(self, row: pb.Row, score: float = 0.0, snippet: str = "") -> SessionRow:
        """Return a row with these tags."""
        return SessionRow(row, self.source, self.cached, self.age_s, score, snippet)


class QueryPlan(ABC, Generic[R]):
    """The paging plan of one request; unless a subclass says otherwise, it is sent unchanged and has one page.

    Page tokens are valid only in the same `context`. `limit` is the largest number of rows of a merged page.
    """

    verb: ClassVar[str]

    def __init__(self, request: R, *context: str, page_size: int = MAX_ROWS_LIMIT) -> None:
        self._request = request
        self.context = context_of(self.verb, *context)
        self.limit = min(page_size or DEFAULT_PAGE_SIZE, MAX_ROWS_LIMIT)

    def request(self, cursor: Cursor) -> R:
        """Return the request to a source for the page that begins at `cursor`."""
        return self._request

    @abstractmethod
    def page(self, reply: Any, cursor: Cursor, tags: Tags) -> Page:
        """Convert a source's answer to a page. Raises `OrderViolationError`."""

    def next_cursor(self, page: Page, used: int, cursor: Cursor) -> Cursor | Done:
        """Return the cursor after `used` rows of a page that began at `cursor`, or `DONE`."""
        return DONE


class ListPlan(QueryPlan[pb.ListRequest]):
    """The plan of `list`: newest first, then by source, then by id."""

    verb = "list"

    def __init__(self, request: pb.ListRequest, user: str, source: str) -> None:
        pairs = (part for pair in sorted(request.where.items()) for part in pair)
        super().__init__(request, user, source, request.resource, *pairs, page_size=request.page_size)

    def request(self, cursor: Cursor) -> pb.ListRequest:
        """Return the request for the rows after the cursor.

        The first request names no position, so it shares its cache entry with calls of a stub.
        """
        query = self._request
        request = pb.ListRequest(resource=query.resource, where=query.where, page_size=query.page_size)
        if isinstance(cursor, ListCursor):
            request.after.id = cursor.id
            request.after.created_at.seconds, request.after.created_at.nanos = divmod(cursor.created_ns, NANOSECONDS)
        return request

    def page(self, reply: pb.ListResponse, cursor: Cursor, tags: Tags) -> Page:
        """Return the rows. Raises `OrderViolationError` unless they ascend after `cursor`: a cycle would never end."""
        orders = [(-_nanoseconds(row.created_at), row.id) for row in reply.rows]
        before = (-cursor.created_ns, cursor.id) if isinstance(cursor, ListCursor) else None
        for order in orders:
            if not 0 < len(order[1].encode()) <= MAX_ID:
                raise OrderViolationError("the id of a row is empty or too long")
            if before is not None and order <= before:
                raise OrderViolationError("the rows are not in the order of a list")
            before = order
        keys = tuple((created, tags.source, row_id) for created, row_id in orders)
        return Page(tags.source, tuple(map(tags.row, reply.rows)), keys, bool(reply.next_page_token and orders))

    def next_cursor(self, page: Page, used: int, cursor: Cursor) -> Cursor | Done:
        """Return the cursor after the last used row, or `DONE`."""
        if used == len(page.rows) and not page.more:
            return DONE
        if not used:
            return cursor
        created, _, row_id = page.keys[used - 1]
        return ListCursor(-created, row_id)


class SearchPlan(QueryPlan[pb.SearchRequest]):
    """The plan of `search`: by score relative to the best of each source, then by source, then by the source's rank."""

    verb = "search"

    def __init__(self, request: pb.SearchRequest, user: str, source: str) -> None:
        words = (request.query, *sorted(request.resources))
        super().__init__(request, user, source, *words, page_size=request.page_size)

    def request(self, cursor: Cursor) -> pb.SearchRequest:
        """Return the request for a page of the source. A page that was used in part is requested again unchanged."""
        query = self._request
        request = pb.SearchRequest(query=query.query, resources=query.resources, page_size=query.page_size)
        if isinstance(cursor, SearchCursor):
            request.page_token, request.page_size = cursor.token, cursor.size
        return request

    def page(self, reply: pb.SearchResponse, cursor: Cursor, tags: Tags) -> Page:
        """Return the hits that are not used yet. Their scores are normalised to (0, 1] and made non-increasing."""
        if len(reply.next_page_token) > MAX_SOURCE_TOKEN:
            raise OrderViolationError("the page token is too long")
        start = cursor if isinstance(cursor, SearchCursor) else None
        top = start.top if start else _clamp_score(reply.hits[0].score) if reply.hits else 1.0
        scores, least = [], 1.0
        for hit in reply.hits:
            least = min(least, max(_clamp_score(hit.score) / top, MIN_SCORE))
            scores.append(least)
        skip = start.skip if start else 0
        rows = tuple(
            tags.row(hit.row, score, hit.snippet) for hit, score in list(zip(reply.hits, scores, strict=True))[skip:]
        )
        keys = tuple((-row.score, tags.source, index) for index, row in enumerate(rows))
        more = bool(reply.next_page_token and rows)
        return Page(tags.source, rows, keys, more, reply.next_page_token, top)

    def next_cursor(self, page: Page, used: int, cursor: Cursor) -> Cursor | Done:
        """Return a cursor within the same page until all of its hits are used, then one of the source's next page."""
        start = cursor if isinstance(cursor, SearchCursor) else SearchCursor("", 0, self._request.page_size, page.top)
        if used < len(page.rows):
            return SearchCursor(start.token, start.skip + used, start.size, page.top)
        return SearchCursor(page.next_token, 0, self._request.page_size, page.top) if page.more else DONE


class GetPlan(QueryPlan[pb.GetRequest]):
    """The plan of `get`: one row of each source that has the row."""

    verb = "get"

    def __init__(self, request: pb.GetRequest, user: str, source: str) -> None:
        super().__init__(request, user, source, request.resource, request.id)

    def page(self, reply: pb.GetResponse, _cursor: Cursor, tags: Tags) -> Page:
        """Return the row as a page."""
        row = reply.row
        if (row.resource, row.id) != (self._request.resource, self._request.id):
            raise OrderViolationError("the row is not the requested row")
        return Page(tags.source, (tags.row(row),), ((-_nanoseconds(row.created_at), tags.source, row.id),))


class CapabilitiesPlan(QueryPlan[pb.CapabilitiesRequest]):
    """The plan of `capabilities`: no rows."""

    verb = "capabilities"

    def page(self, _reply: pb.CapabilitiesResponse, _cursor: Cursor, tags: Tags) -> Page:
        """Return a page without rows."""
        return Page(tags.source)


def _nanoseconds(instant: Timestamp) -> int:
    if not (0 <= instant.nanos < NANOSECONDS and MIN_SECONDS <= instant.seconds <= MAX_SECONDS):
        raise OrderViolationError("the created_at of a row is not a valid timestamp")
    return int(instant.seconds * NANOSECONDS + instant.nanos)


def _clamp_score(score: float) -> float:
    return min(max(score, MIN_SCORE), 1.0) if isfinite(score) else MIN_SCORE

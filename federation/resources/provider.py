"""What the serving side asks of a gateway's own data. Plug yours in by implementing `ResourceProvider`."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

from federation.scope.model import RowFilter

__all__ = [
    "Change",
    "KnowsTeams",
    "ListQuery",
    "Page",
    "Position",
    "Removal",
    "RemovesUsers",
    "ResourceProvider",
    "Row",
    "SearchHit",
    "SearchQuery",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `data` is the text of one JSON object, passed through as stored; instants are Unix microseconds."""

    resource: str
    id: str
    owner: str
    team: str
    created_at_us: int
    updated_at_us: int
    data: str

    @property
    def position(self) -> "Position":
        """Where the row stands in the order of a list."""
        return Position(self.created_at_us, self.id)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order `(created_at descending, id ascending)`: a list goes on strictly behind it."""

    created_at_us: int
    id: str


@dataclass(frozen=True, slots=True)
class ListQuery:
    """A list of one resource: rows equal to `where` in every field, behind `after`, at most `limit`."""

    resource: str
    filter: RowFilter
    limit: int
    where: Mapping[str, str] = field(default_factory=dict)
    after: Position | None = None


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A full-text search over resources, each with its own filter; `offset` rows of the ranking are passed over."""

    text: str
    filters: Mapping[str, RowFilter]
    limit: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A row with its rank: `score` in (0, 1], larger is better; matched words of `snippet` stand in brackets."""

    row: Row
    score: float
    snippet: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of an answer; `more` tells whether anything stands behind it."""

    items: tuple[T, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A committed write. `owner` and `team` hold the row's old and new values, so that either side can be matched.

    An empty `resource` says that a user's own rights changed: `owners` names the users.
    """

    resource: str
    owners: frozenset[str]
    teams: frozenset[str]


@runtime_checkable
class KnowsTeams(Protocol):
    """A provider that can tell whose rows a user sees by team.

    Without it, a peer hears at once of changes to rows whose `Change.owners` name its subject, and of others when its
    lease ends.
    """

    async def teams_of(self, subject: str) -> frozenset[str]:
        """Return the teams whose rows the subject sees; what changes that must come as a `Change` of its rights."""
        ...


@dataclass(frozen=True, slots=True)
class Removal:
    """What the removal of a user took: the teams left, and how many rows keep the user's name as their owner."""

    teams: tuple[str, ...]
    owned_rows: int


@runtime_checkable
class RemovesUsers(Protocol):
    """A provider that can remove a user from the gateway's own data."""

    async def remove_user(self, subject: str) -> Removal:
        """Take every right of a user away; what the user owns stays. An unknown user loses nothing."""
        ...


@runtime_checkable
class ResourceProvider(Protocol):
    """The gateway's own data, read as one of its users.

    Every method applies the gateway's native rights of `subject` first and `RowFilter` after that: a filter only
    narrows. An unknown subject sees nothing. Methods may raise `Refusal` INVALID_REQUEST for a `where` field that
    they cannot compare; anything else that they raise becomes an incident.
    """

    async def list(self, subject: str, query: ListQuery) -> Page[Row]:
        """Return rows in the order `(created_at descending, id ascending)`."""
        ...

    async def get(self, subject: str, resource: str, row_id: str, row_filter: RowFilter) -> Row | None:
        """Return the row, or `None` alike for absent, not visible and filtered out, at the same cost."""
        ...

    async def search(self, subject: str, query: SearchQuery) -> Page[SearchHit]:
        """Return hits by falling score, ties by `(created_at descending, id)`."""
        ...

    async def has_user(self, subject: str) -> bool:
        """Tell whether the gateway knows this user."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """Yield committed writes from the moment of the call on, for as long as the iterator is kept open."""
        ...

"""The interface to a gateway's own data. Implement `ResourceProvider` to serve your data."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, runtime_checkable

from federation.scope.model import RowFilter

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `data` is the JSON text of one object, passed through as stored; instants are Unix microseconds."""

    resource: str
    id: str
    owner: str
    team: str
    created_at_us: int
    updated_at_us: int
    data: str

    @property
    def position(self) -> "Position":
        """The position of the row in list order."""
        return Position(self.created_at_us, self.id)


@dataclass(frozen=True, slots=True)
class Position:
    """A position in the order `(created_at descending, id ascending)`; a list continues strictly after it."""

    created_at_us: int
    id: str


@dataclass(frozen=True, slots=True)
class ListQuery:
    """A list of one resource: at most `limit` rows after `after` that equal `where` in every field."""

    resource: str
    filter: RowFilter
    limit: int
    where: Mapping[str, str] = field(default_factory=dict)
    after: Position | None = None


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A full-text search over resources, each with its own filter; skips the first `offset` hits."""

    text: str
    filters: Mapping[str, RowFilter]
    limit: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A matching row. `score` is in (0, 1], higher is better; `snippet` has matched words in brackets."""

    row: Row
    score: float
    snippet: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a result; `more` tells whether further items follow."""

    items: tuple[T, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A committed write. `owners` and `teams` contain the row's old and new values.

    An empty `resource` means that the rights of the users in `owners` changed.
    """

    resource: str
    owners: frozenset[str]
    teams: frozenset[str]


@runtime_checkable
class KnowsTeams(Protocol):
    """A provider that knows the teams of its users.

    Without it, a peer is notified at once only of changes whose `Change.owners` include its subject; other changes take
    effect when its lease ends.
    """

    async def teams_of(self, subject: str) -> frozenset[str]:
        """Return the teams whose rows the subject sees. A change of them must be published as a `Change` of rights."""
        ...


@dataclass(frozen=True, slots=True)
class Removal:
    """The result of removing a user: the teams it left, and the number of rows that it still owns."""

    teams: tuple[str, ...]
    owned_rows: int


@runtime_checkable
class RemovesUsers(Protocol):
    """A provider that can remove a user from the gateway's own data."""

    async def remove_user(self, subject: str) -> Removal:
        """Remove all rights of a user; its rows stay. Does nothing for an unknown user."""
        ...


@runtime_checkable
class ResourceProvider(Protocol):
    """The gateway's own data, read as one of its users.

    Every method applies the subject's own rights first, then the `RowFilter`, which only narrows them. An unknown
    subject sees nothing. Methods may raise `Refusal` INVALID_REQUEST for a `where` field that they cannot compare; any
    other exception is reported to the caller as INTERNAL with an incident id.
    """

    async def list(self, subject: str, query: ListQuery) -> Page[Row]:
        """Return rows in the order `(created_at descending, id ascending)`."""
        ...

    async def get(self, subject: str, resource: str, row_id: str, row_filter: RowFilter) -> Row | None:
        """Return the row; `None`, at the same cost, if it is absent, not visible or filtered out."""
        ...

    async def search(self, subject: str, query: SearchQuery) -> Page[SearchHit]:
        """Return hits by descending score, ties by `(created_at descending, id)`."""
        ...

    async def has_user(self, subject: str) -> bool:
        """Tell whether the user exists."""
        ...

    def changes(self) -> AsyncIterator[Change]:
        """Yield writes committed after the call, until the iterator is closed."""
        ...

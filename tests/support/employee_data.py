"""Four employees and the rows that each may see, computed from the rows and scope documents alone.

Nothing here uses the code under test: rights and scopes are implemented a second time from the documentation.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

WORK: Final = "work.example"
RESOURCES: Final = ("tasks", "notes", "memory", "credentials")
WORDS: Final = ("apple", "pear", "plum")
STATES: Final = ("open", "done")
RATE: Final = {"rate_limit_per_minute": 1_000_000}


@dataclass(frozen=True)
class Record:
    """A row of one gateway."""

    gateway: str
    resource: str
    id: str
    owner: str
    team: str
    second: int
    data: Mapping[str, str]

    @property
    def words(self) -> frozenset[str]:
        """The words by which a search finds the row."""
        return frozenset(word for text in self.data.values() for word in text.split())

    def has(self, where: Mapping[str, str]) -> bool:
        """Tell whether all these fields have these values."""
        columns = {"id": self.id, "owner": self.owner, "team": self.team}
        return all(columns.get(name, self.data.get(name)) == value for name, value in where.items())

    def line(self) -> dict[str, Any]:
        """The row's line of an import file."""
        at = f"2026-01-01T00:{self.second // 60:02}:{self.second % 60:02}Z"
        place = {"resource": self.resource, "id": self.id, "owner": self.owner, "team": self.team}
        return {"kind": "row", **place, "created_at": at, "data": dict(self.data)}


@dataclass(frozen=True)
class GatewayData:
    """Users, teams and rows of one gateway. Row ids and times are the same at every gateway, and user names may be."""

    name: str
    teams: Mapping[str, tuple[str, ...]]
    users: tuple[str, ...]
    rows: tuple[Record, ...] = field(default=(), compare=False)

    def teams_of(self, user: str) -> frozenset[str]:
        """The teams of a user."""
        return frozenset(team for team, members in self.teams.items() if user in members)

    def lines(self) -> bytes:
        """The import file."""
        lines: list[dict[str, Any]] = [{"kind": "user", "id": user} for user in self.users]
        lines += [{"kind": "team", "id": team} for team in self.teams]
        lines += [{"kind": "member", "user": user, "team": team} for team in self.teams for user in self.teams[team]]
        lines += [row.line() for row in self.rows]
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@dataclass(frozen=True)
class Employee:
    """A person: the user at a home gateway, the subject at work, and the home gateway's peers with their scopes."""

    name: str
    home: str
    user: str
    subject: str
    peers: Mapping[str, dict[str, Any]] = field(repr=False)


def _gateway_data(name: str, each: int, users: tuple[str, ...], **teams: tuple[str, ...]) -> GatewayData:
    numbers = count()

    def rows() -> Iterator[Record]:
        for resource in RESOURCES:
            for owner in users:
                mine = ("", *(team for team, members in teams.items() if owner in members))
                for team in mine * each:
                    number = next(numbers)
                    data = {
                        "title": f"common {WORDS[number % 3]} {owner}word",
                        "status": STATES[number % 2],
                        "secret": f"{name.partition('.')[0]}{number}secret {team}team",
                    }
                    # Seven rows share a creation time, in no order of their ids.
                    yield Record(name, resource, f"row-{number}", owner, team, number * 37 % 101 // 7, data)

    return GatewayData(name, teams, users, tuple(rows()))


GATEWAYS: Final = {
    gateway.name: gateway
    for gateway in (
        _gateway_data(
            WORK,
            2,
            ("ada", "ben", "cleo", "dan", "eve"),
            red=("ada", "ben"),
            blue=("ben", "cleo", "dan"),
            green=("ada", "dan"),
            gold=("eve",),
        ),
        _gateway_data("ada.example", 1, ("ada", "dan"), red=("ada", "dan")),
        # The same user name may be another person at work.
        _gateway_data("ben.example", 1, ("ben", "cleo"), blue=("ben", "cleo")),
        _gateway_data("cleo.example", 1, ("ada", "ben"), green=("ada",)),
    )
}
ADA: Final = Employee(
    "ada",
    "ada.example",
    "ada",
    "ada",
    {
        WORK: {"resources": ["tasks", "notes"], "max_rows_per_query": 100, **RATE},
        "adas-desk.example": {
            "resources": ["tasks", "memory", "credentials"],
            "excluded_resources": ["memory"],
            "max_rows_per_query": 3,
            "filters": {"tasks": {"include_teams": ["green"]}},
            **RATE,
        },
    },
)
DAN: Final = Employee(
    "dan",
    "ada.example",
    "dan",
    "dan",
    {
        WORK: {
            "resources": ["tasks", "notes", "memory"],
            "max_rows_per_query": 4,
            "filters": {"tasks": {"include_personal": False}, "memory": {"include_teams": ["blue", "gold"]}},
            **RATE,
        },
        "dans-desk.example": {"resources": ["notes", "credentials"], "max_rows_per_query": 50, **RATE},
    },
)
BEN: Final = Employee(
    "ben",
    "ben.example",
    "ben",
    "ben",
    {
        WORK: {
            "resources": ["tasks", "notes", "memory"],
            "max_rows_per_query": 5,
            "filters": {"notes": {"include_teams": ["red"], "include_personal": True}},
            **RATE,
        }
    },
)
CLEO: Final = Employee(  # her home gateway calls her ada
    "cleo",
    "cleo.example",
    "ada",
    "cleo",
    {
        WORK: {
            "resources": ["tasks", "memory"],
            "max_rows_per_query": 6,
            "filters": {"memory": {"include_teams": []}},
            **RATE,
        }
    },
)
EMPLOYEES: Final = (ADA, BEN, CLEO, DAN)


def visible_rows(person: Employee, source: str) -> tuple[Record, ...]:
    """The rows of a source that a person may see: by the user's rights, and at work also by the grant's scope."""
    scope = None if source == "local" else person.peers[source.removeprefix("federated:")]
    gateway, who = (GATEWAYS[person.home], person.user) if scope is None else (GATEWAYS[WORK], person.subject)
    teams = gateway.teams_of(who)
    own = (row for row in gateway.rows if row.owner == who or row.team in teams)
    return tuple(row for row in own if scope is None or in_scope(scope, row))


def allowed_resources(person: Employee, source: str) -> frozenset[str]:
    """The resources that a source allows to a person."""
    if source == "local":
        return frozenset((*RESOURCES, "api_keys"))
    scope = person.peers[source.removeprefix("federated:")]
    return frozenset(scope["resources"]) - frozenset(scope.get("excluded_resources", ()))


def in_scope(scope: dict[str, Any], row: Record) -> bool:
    """Tell whether a scope document allows a row."""
    if row.resource not in scope["resources"] or row.resource in scope.get("excluded_resources", ()):
        return False
    row_filter = scope.get("filters", {}).get(row.resource, {})
    teams = row_filter.get("include_teams")
    if not row.team:
        return bool(row_filter.get("include_personal", teams is None))
    return teams is None or row.team in teams


def merged(rows: Mapping[str, tuple[Record, ...]]) -> list[tuple[str, Record]]:
    """The rows of several sources, newest first, then by source, then by id."""
    pairs = [(source, row) for source, found in rows.items() for row in found]
    return sorted(pairs, key=lambda pair: (-pair[1].second, pair[0], pair[1].id))

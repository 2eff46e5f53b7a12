"""The scope document of a grant: parsing, validation and row filters. Pure."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from federation.errors import InputError, Reason, Refusal
from federation.sanitize import escaped
from federation.suggest import hint_or_known

KNOWN_RESOURCES: Final = frozenset({"tasks", "notes", "memory"})
SENSITIVE_RESOURCES: Final = frozenset({"credentials", "api_keys"})
"""Resources that are never cached, denied unless named, and warned about when a grant is created."""

DEFAULT_PAGE_SIZE: Final = 50
DEFAULT_MAX_ROWS: Final = 100
MAX_ROWS_LIMIT: Final = 1_000
DEFAULT_RATE_PER_MINUTE: Final = 600
RATE_LIMIT: Final = 1_000_000
_FIELDS: Final = frozenset(
    {"resources", "excluded_resources", "max_rows_per_query", "filters", "rate_limit_per_minute"}
)
_FILTER_FIELDS: Final = frozenset({"include_teams", "include_personal"})


@dataclass(frozen=True, slots=True)
class RowFilter:
    """Filter of the subject's visible rows of a resource. It only narrows the subject's own rights.

    `include_teams`: the teams whose rows pass, `None` for all teams. `include_personal`: whether rows without a team
    pass; in a document the default is false if `include_teams` is given, so that naming teams opens only those teams.
    """

    include_teams: frozenset[str] | None = None
    include_personal: bool = True

    def admits(self, team: str) -> bool:
        """Tell whether a row of `team` (empty for a personal row) passes."""
        if not team:
            return self.include_personal
        return self.include_teams is None or team in self.include_teams


EVERYTHING: Final = RowFilter()
NOTHING: Final = RowFilter(frozenset(), include_personal=False)


@dataclass(frozen=True, slots=True)
class Scope:
    """The parsed scope document of one grant."""

    resources: tuple[str, ...]
    excluded_resources: tuple[str, ...] = ()
    max_rows_per_query: int = DEFAULT_MAX_ROWS
    filters: Mapping[str, RowFilter] = field(default_factory=dict)
    rate_limit_per_minute: int = DEFAULT_RATE_PER_MINUTE

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Parse a scope document.

        Raises `InputError` that names the field: unknown fields or resources, wrong types, numbers out of range.
        """
        try:
            document = json.loads(text, object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as e:  # ValueError also for a number with thousands of digits
            raise InputError("scope", f"not JSON: {e}") from e
        document = _object(document, "scope", _FIELDS)
        resources = _resources(document.get("resources", []), "scope.resources")
        if not resources:
            raise InputError("scope.resources", "name at least one resource, such as tasks")
        excluded = _resources(document.get("excluded_resources", []), "scope.excluded_resources")
        filters = document.get("filters", {})
        if not isinstance(filters, dict):
            raise InputError("scope.filters", "must be an object of resource: filter")
        for name in filters:
            if name not in resources:
                field = f"scope.filters.{escaped(name)}"
                raise InputError(field, "filters a resource that scope.resources does not name")
        return cls(
            resources=resources,
            excluded_resources=excluded,
            max_rows_per_query=_integer(document, "max_rows_per_query", DEFAULT_MAX_ROWS, MAX_ROWS_LIMIT),
            filters={name: _filter(value, f"scope.filters.{name}") for name, value in filters.items()},
            rate_limit_per_minute=_integer(document, "rate_limit_per_minute", DEFAULT_RATE_PER_MINUTE, RATE_LIMIT),
        )

    def to_json(self) -> str:
        """Return the document in canonical form: every field is present, resources keep their order."""
        return json.dumps(
            {
                "resources": list(self.resources),
                "excluded_resources": list(self.excluded_resources),
                "max_rows_per_query": self.max_rows_per_query,
                "filters": {name: _filter_json(value) for name, value in self.filters.items()},
                "rate_limit_per_minute": self.rate_limit_per_minute,
            }
        )

    @property
    def open_resources(self) -> tuple[str, ...]:
        """The resources that a call may name: listed and not excluded."""
        return tuple(name for name in self.resources if name not in self.excluded_resources)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about valid but questionable parts of the scope."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        for name in self.open_resources:
            if name in SENSITIVE_RESOURCES:
                yield f"scope.resources opens {name}, which hold secrets: they are readable, and never cached"
            if self.filters.get(name, EVERYTHING) == NOTHING:
                yield f"scope.filters.{name} lets no row through: it names no team, and leaves personal rows out"

    def check(self, resource: str) -> RowFilter:
        """Return the filter of an open resource. Raises `Refusal` SCOPE_VIOLATION for any other resource."""
        if resource not in self.open_resources:
            raise Refusal(Reason.SCOPE_VIOLATION, f"the grant does not open the resource {resource[:64]!r}")
        return self.filters.get(resource, EVERYTHING)

    def cap(self, page_size: int) -> int:
        """Return the maximum number of rows of a page for the requested `page_size` (0 for the default)."""
        return min(page_size or DEFAULT_PAGE_SIZE, self.max_rows_per_query)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InputError(f"scope.{escaped(key)}", "appears twice")
        result[key] = value
    return result


def _object(value: object, name: str, fields: frozenset[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(name, "must be a JSON object")
    for key in value:
        if key not in fields:
            raise InputError(f"{name}.{escaped(key)}", f"unknown field; {hint_or_known(key[:64], sorted(fields))}")
    return value


def _resources(value: object, name: str) -> tuple[str, ...]:
    """Return a list of known resources. Exclusions are checked too: a typo in one would leave the resource open."""
    resources, known = _names(value, name, "tasks"), KNOWN_RESOURCES | SENSITIVE_RESOURCES
    for resource in resources:
        if resource not in known:
            raise InputError(name, f"unknown resource {resource[:64]!r}; {hint_or_known(resource[:64], sorted(known))}")
    return resources


def _names(value: object, name: str, such_as: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item and item.isprintable() for item in value):
        raise InputError(name, f'must be a list of names, such as ["{such_as}"]')
    if len(set(value)) != len(value):
        raise InputError(name, f"names {escaped(Counter(value).most_common(1)[0][0])} twice")
    return tuple(value)


def _integer(document: dict[str, Any], key: str, default: int, most: int) -> int:
    value = document.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InputError(f"scope.{key}", f"must be a whole number from 1 to {most}")
    return value


def _filter(value: object, name: str) -> RowFilter:
    document = _object(value, name, _FILTER_FIELDS)
    teams = document.get("include_teams")
    personal = document.get("include_personal", teams is None)
    if not isinstance(personal, bool):
        raise InputError(f"{name}.include_personal", "must be true or false")
    included = None if teams is None else frozenset(_names(teams, f"{name}.include_teams", "T1"))
    return RowFilter(included, personal)


def _filter_json(value: RowFilter) -> dict[str, Any]:
    teams = {} if value.include_teams is None else {"include_teams": sorted(value.include_teams)}
    return {**teams, "include_personal": value.include_personal}

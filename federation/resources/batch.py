"""A batch of users, teams, memberships and rows to write, each validated on creation. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from federation.clock import from_micros
from federation.errors import InputError
from federation.resources.documents import Document, is_storable
from federation.scope.model import KNOWN_RESOURCES, SENSITIVE_RESOURCES
from federation.suggest import hint_or_known

RESOURCES: Final = KNOWN_RESOURCES | SENSITIVE_RESOURCES
"""The resources of the embedded provider."""
MAX_ROW_ID: Final = 256
_NAME: Final = re.compile(r"[ -~]{1,127}\Z")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def check_name(value: str, field: str) -> str:
    """Return the id of a user or team; raise `InputError` unless it is 1 to 127 printable ASCII characters."""
    if not _NAME.match(value):
        raise InputError(field, "must be 1 to 127 printable ASCII characters")
    return value


@dataclass(frozen=True, slots=True)
class Member:
    """A user's membership of a team."""

    user: str
    team: str

    def __post_init__(self) -> None:
        check_name(self.user, "user")
        check_name(self.team, "team")


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row to write. It replaces an existing row with the same resource and id.

    `created_at_us` of `None` keeps the stored value, or is now for a new row. `updated_at_us` of `None` is now for a
    new or changed row. Raises `InputError` that names the field.
    """

    resource: str
    id: str
    owner: str
    data: Document
    team: str = ""
    created_at_us: int | None = None
    updated_at_us: int | None = None

    def __post_init__(self) -> None:
        if self.resource not in RESOURCES:
            meant = hint_or_known(self.resource, sorted(RESOURCES))
            raise InputError("resource", f"unknown resource {self.resource[:64]!r}; {meant}")
        if not 1 <= len(self.id) <= MAX_ROW_ID or _CONTROL.search(self.id) or not is_storable(self.id):
            raise InputError("id", f"must be 1 to {MAX_ROW_ID} characters, none of them a control character")
        check_name(self.owner, "owner")
        if self.team:
            check_name(self.team, "team")
        _check_instant(self.created_at_us, "created_at")
        _check_instant(self.updated_at_us, "updated_at")


@dataclass(frozen=True, slots=True)
class Batch:
    """The writes of one transaction. Users, teams and memberships may already exist."""

    users: Sequence[str] = ()
    teams: Sequence[str] = ()
    members: Sequence[Member] = ()
    rows: Sequence[NewRow] = ()

    def __post_init__(self) -> None:
        for user in self.users:
            check_name(user, "user")
        for team in self.teams:
            check_name(team, "team")
        if len({(row.resource, row.id) for row in self.rows}) != len(self.rows):
            raise InputError("rows", "two rows have the same resource and id")


def _check_instant(micros: int | None, field: str) -> None:
    if micros is not None:
        try:
            from_micros(micros)
        except (ValueError, OverflowError, OSError):
            raise InputError(field, "must be in the years 1 to 9999") from None

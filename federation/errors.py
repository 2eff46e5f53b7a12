"""Every error of the package, and every reason that crosses the wire.

    FederationError
    ├── ConfigError            a setting is missing or wrong; names the field and the cure
    ├── InputError             a value given by a person or a file is wrong; names the field and the cure
    ├── NotFoundError          a user, peer or grant that does not exist; suggests near matches
    ├── ConflictError          the thing exists already, or is in a state that forbids the act
    ├── GatewayUnavailableError     the gateway's admin socket does not answer
    ├── LockedError            another process serves this gateway
    ├── StoreError             the database refused or is not what it should be
    ├── SealError              a sealed key cannot be opened
    ├── EnrollmentError        a token or certificate exchange was refused
    ├── ImportFailedError           input lines are wrong; nothing was loaded
    ├── UnknownReferencesError      written rows or memberships name users or teams that do not exist
    ├── ChangesLostError            a listener read the provider's changes too slowly
    └── Refusal                an answer to a federation call: a reason, and from it the gRPC status

A `Refusal` is what policy raises and returns; only the gRPC adapters know status codes' classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = [
    "CODE_OF",
    "ChangesLostError",
    "ConfigError",
    "ConflictError",
    "EnrollmentError",
    "FederationError",
    "GatewayUnavailableError",
    "ImportFailedError",
    "InputError",
    "LineFault",
    "LockedError",
    "NotFoundError",
    "Reason",
    "Refusal",
    "SealError",
    "StoreError",
    "UnknownReferencesError",
]


class FederationError(Exception):
    """Root of every error that this package raises by itself."""


class ConfigError(FederationError):
    """A setting is missing or wrong."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class InputError(FederationError):
    """A value given by a person or a file is wrong; `field` says which."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


class NotFoundError(FederationError):
    """Something named does not exist."""

    def __init__(self, what: str, name: str, near: Iterable[str] = (), cure: str = "") -> None:
        near = tuple(near)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; {cure}" if cure else ""
        super().__init__(f"no {what} {name!r}{hint}")
        self.what, self.name, self.near = what, name, near


class ConflictError(FederationError):
    """The thing exists already, or its state forbids the act."""


class GatewayUnavailableError(FederationError):
    """The gateway's admin socket does not answer."""


class LockedError(FederationError):
    """Another process serves this gateway or its database."""


class StoreError(FederationError):
    """The database refused, or is not what it should be."""


class SealError(FederationError):
    """A sealed key cannot be opened with the seal key at hand."""


class EnrollmentError(FederationError):
    """A token or certificate exchange was refused, or its answer does not hold what was asked for."""


@dataclass(frozen=True, slots=True)
class LineFault:
    """One wrong line of an input file: its number from 1, the field, and what is wrong."""

    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.field}: {self.problem}"


class ImportFailedError(FederationError):
    """Input lines are wrong; nothing was loaded. `faults` holds the first of them, `total` counts all."""

    def __init__(self, faults: Iterable[LineFault], total: int) -> None:
        self.faults, self.total = tuple(faults), total
        more = f" (and {total - len(self.faults)} more)" if total > len(self.faults) else ""
        super().__init__("; ".join(map(str, self.faults)) + more + "; nothing was imported")


class UnknownReferencesError(FederationError):
    """Written rows or memberships name users or teams that do not exist; nothing was written."""

    def __init__(self, users: Iterable[str], teams: Iterable[str]) -> None:
        self.users, self.teams = frozenset(users), frozenset(teams)
        named = [*(f"user {name!r}" for name in sorted(self.users)), *(f"team {name!r}" for name in sorted(self.teams))]
        super().__init__(f"no {', no '.join(named[:10])}{' and more' if len(named) > 10 else ''}")  # noqa: PLR2004


class ChangesLostError(FederationError):
    """A listener read the provider's changes too slowly; whatever it derived from the provider may be stale."""


class Reason(StrEnum):
    """Why a federation call was not answered: `ErrorInfo.reason` in the domain `federation.mosaic`."""

    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    """Identity extensions missing or malformed, or the certificate expired on a live connection."""
    GRANT_REVOKED = "GRANT_REVOKED"
    """This very certificate's grant was revoked. Final."""
    GRANT_INVALID = "GRANT_INVALID"
    """Every other fault of a grant, told apart only in the server's own records."""
    SCOPE_VIOLATION = "SCOPE_VIOLATION"
    """The resource is not in the scope, or excluded. Never said of a row."""
    ROW_NOT_FOUND = "ROW_NOT_FOUND"
    """Absent, not visible to the subject, or outside the scope: one answer for all."""
    INVALID_REQUEST = "INVALID_REQUEST"
    """The request is malformed; the message names the field."""
    RATE_LIMITED = "RATE_LIMITED"
    """Too many calls under this grant; carries how long to wait."""
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    """Made locally: the peer failed too often; carries the cooldown left."""
    PEER_UNREACHABLE = "PEER_UNREACHABLE"
    """Made locally: no connection could be had."""
    PEER_TIMEOUT = "PEER_TIMEOUT"
    """Made locally: the call's budget ran out."""
    INTERNAL = "INTERNAL"
    """A fault of the serving gateway; the message holds an incident id and nothing else."""


CODE_OF: Final[Mapping[Reason, str]] = MappingProxyType(
    {
        Reason.CERTIFICATE_INVALID: "UNAUTHENTICATED",
        Reason.GRANT_REVOKED: "PERMISSION_DENIED",
        Reason.GRANT_INVALID: "PERMISSION_DENIED",
        Reason.SCOPE_VIOLATION: "PERMISSION_DENIED",
        Reason.ROW_NOT_FOUND: "NOT_FOUND",
        Reason.INVALID_REQUEST: "INVALID_ARGUMENT",
        Reason.RATE_LIMITED: "RESOURCE_EXHAUSTED",
        Reason.CIRCUIT_OPEN: "UNAVAILABLE",
        Reason.PEER_UNREACHABLE: "UNAVAILABLE",
        Reason.PEER_TIMEOUT: "DEADLINE_EXCEEDED",
        Reason.INTERNAL: "INTERNAL",
    }
)
"""The gRPC status code name of each reason."""


class Refusal(FederationError):  # noqa: N818 - it is an answer, not a malfunction
    """The refusal of a federation call.

    `retry_after_s` becomes `RetryInfo`. `detail` stays in the refusing gateway's own records: it tells apart what
    the answer must not (`grant expired`, `unknown serial`).
    """

    def __init__(self, reason: Reason, message: str, *, retry_after_s: float | None = None, detail: str = "") -> None:
        super().__init__(message)
        self.reason, self.message, self.retry_after_s, self.detail = reason, message, retry_after_s, detail

    @property
    def code(self) -> str:
        """The gRPC status code name."""
        return CODE_OF[self.reason]

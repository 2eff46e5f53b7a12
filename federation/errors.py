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

An error that an operator can act on carries a `Remedy`: the act as a value. The package spells no command; a command
line program turns the remedy into its own command.
"""

import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

__all__ = [
    "CODE_OF",
    "Action",
    "Actor",
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
    "Remedy",
    "SealError",
    "StoreError",
    "UnknownReferencesError",
    "log_incident",
    "unknown_grant",
    "unknown_peer",
]


class Action(StrEnum):
    """An act of an operator that remedies a fault."""

    INIT_GATEWAY = "INIT_GATEWAY"
    START_GATEWAY = "START_GATEWAY"
    IMPORT_DATA = "IMPORT_DATA"
    LIST_GRANTS = "LIST_GRANTS"
    SHOW_GRANT = "SHOW_GRANT"
    """Show a grant and what the audit trail has of it."""
    EDIT_SCOPE = "EDIT_SCOPE"
    ADD_PEER = "ADD_PEER"
    LIST_PEERS = "LIST_PEERS"
    REMOVE_PEER = "REMOVE_PEER"
    REPLACE_PEER = "REPLACE_PEER"
    """Remove a peer, and enroll at the same gateway again with a token that is at hand."""
    ENROLL_AGAIN = "ENROLL_AGAIN"
    """Replace a peer after its operator has made a new token."""
    ROTATE_PEER = "ROTATE_PEER"
    RESET_CIRCUIT = "RESET_CIRCUIT"
    EXPLAIN_PEER = "EXPLAIN_PEER"
    """Find the broken link of the way to a peer."""
    SHOW_STATUS = "SHOW_STATUS"
    SHOW_CAPABILITIES = "SHOW_CAPABILITIES"
    CHOOSE_USER = "CHOOSE_USER"
    """Repeat the request for one of several users."""
    CHOOSE_RESOURCE = "CHOOSE_RESOURCE"
    """Repeat the request for another resource."""
    ALLOW_MORE_TIME = "ALLOW_MORE_TIME"
    """Repeat the request with a longer timeout."""


class Actor(StrEnum):
    """The operator who acts."""

    OPERATOR = "OPERATOR"
    """The operator of this gateway."""
    PEER_OPERATOR = "PEER_OPERATOR"
    """The operator of the peer's gateway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """An act that remedies a fault, with its parameters; a parameter that the act does not need is empty."""

    action: Action
    actor: Actor = Actor.OPERATOR
    peer: str = ""
    user: str = ""
    grant_id: str = ""
    directory: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """The actor and every other parameter that is not empty, by name."""
        return {name: str(value) for name, value in asdict(self).items() if value and name != "action"}

    @classmethod
    def parse(cls, action: str, parameters: Mapping[str, str]) -> "Remedy | None":
        """Return the remedy of an action's name and its `parameters`; `None` for an act that this version lacks."""
        actor = parameters.get("actor", Actor.OPERATOR)
        if action not in Action.__members__ or actor not in Actor.__members__:
            return None
        named = {name: parameters.get(name, "") for name in ("peer", "user", "grant_id", "directory")}
        return cls(action=Action(action), actor=Actor(actor), **named)


class FederationError(Exception):
    """Root of every error that this package raises by itself.

    `remedy` is the act that completes the last clause of the message; `None` where the message names none.
    """

    def __init__(self, *args: object, remedy: Remedy | None = None) -> None:
        super().__init__(*args)
        self.remedy = remedy


class ConfigError(FederationError):
    """A setting is missing or wrong."""

    def __init__(self, field: str, problem: str, *, remedy: Remedy | None = None) -> None:
        super().__init__(f"{field}: {problem}", remedy=remedy)
        self.field = field


class InputError(FederationError):
    """A value given by a person or a file is wrong; `field` says which."""

    def __init__(self, field: str, problem: str, *, remedy: Remedy | None = None) -> None:
        super().__init__(f"{field}: {problem}", remedy=remedy)
        self.field, self.problem = field, problem


class NotFoundError(FederationError):
    """Something named does not exist. The message has the near matches, and without any the cure with its remedy."""

    def __init__(
        self, what: str, name: str, near: Iterable[str] = (), cure: str = "", *, remedy: Remedy | None = None
    ) -> None:
        near = tuple(near)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; {cure}" if cure else ""
        super().__init__(f"no {what} {name!r}{hint}", remedy=None if near else remedy)
        self.what, self.name, self.near = what, name, near


def unknown_grant(given: str, near: Iterable[str] = ()) -> NotFoundError:
    """Return the error for an id that no grant has."""
    remedy = Remedy(action=Action.LIST_GRANTS)
    return NotFoundError("grant", given, near, "list the grants to find its id", remedy=remedy)


def unknown_peer(given: str, near: Iterable[str] = ()) -> NotFoundError:
    """Return the error for a name that no peer has."""
    remedy = Remedy(action=Action.ADD_PEER)
    return NotFoundError("peer", given, near, "enroll this gateway at it with a token", remedy=remedy)


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

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retry_after_s: float | None = None,
        detail: str = "",
        remedy: Remedy | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.reason, self.message, self.retry_after_s, self.detail = reason, message, retry_after_s, detail

    @property
    def code(self) -> str:
        """The gRPC status code name."""
        return CODE_OF[self.reason]


def log_incident(logger: logging.Logger, fault: Exception, where: str) -> str:
    """Log an unforeseen exception under a new incident id, and return the id: all that a caller may learn."""
    incident_id = secrets.token_hex(8)
    logger.error("incident %s in %s", incident_id, where, exc_info=fault)
    return incident_id

"""The exceptions of the package, and the refusal reasons of the wire contract.

Policy code raises or returns `Refusal`; only the gRPC adapters use the classes of gRPC status codes.

An error that an operator can resolve carries a `Remedy`: the required action as a value. This package contains no CLI
commands; a command line program translates the remedy into its own command.
"""

import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """An operator action that resolves an error."""

    INIT_GATEWAY = "INIT_GATEWAY"
    START_GATEWAY = "START_GATEWAY"
    IMPORT_DATA = "IMPORT_DATA"
    LIST_GRANTS = "LIST_GRANTS"
    SHOW_GRANT = "SHOW_GRANT"
    """Show a grant and its audit events."""
    EDIT_SCOPE = "EDIT_SCOPE"
    ADD_PEER = "ADD_PEER"
    LIST_PEERS = "LIST_PEERS"
    REMOVE_PEER = "REMOVE_PEER"
    REPLACE_PEER = "REPLACE_PEER"
    """Remove a peer, then enroll at the same gateway again with the token already given."""
    ENROLL_AGAIN = "ENROLL_AGAIN"
    """Replace a peer with a new token from the peer's operator."""
    ROTATE_PEER = "ROTATE_PEER"
    RESET_CIRCUIT = "RESET_CIRCUIT"
    EXPLAIN_PEER = "EXPLAIN_PEER"
    """Diagnose the connection to a peer step by step."""
    SHOW_STATUS = "SHOW_STATUS"
    SHOW_CAPABILITIES = "SHOW_CAPABILITIES"
    CHOOSE_USER = "CHOOSE_USER"
    """Repeat the request for one of several users."""
    CHOOSE_RESOURCE = "CHOOSE_RESOURCE"
    """Repeat the request for another resource."""
    ALLOW_MORE_TIME = "ALLOW_MORE_TIME"
    """Repeat the request with a longer timeout."""


class Actor(StrEnum):
    """The operator who must act."""

    OPERATOR = "OPERATOR"
    """The operator of this gateway."""
    PEER_OPERATOR = "PEER_OPERATOR"
    """The operator of the peer's gateway."""


ENROLL_AGAIN: Final = "enroll again with a new token"
"""The last clause of a message whose remedy is `Action.ENROLL_AGAIN`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """An action that resolves an error, with its parameters. Parameters that the action does not use are empty."""

    action: Action
    actor: Actor = Actor.OPERATOR
    peer: str = ""
    user: str = ""
    grant_id: str = ""
    directory: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """The non-empty parameters by name, the actor included."""
        return {name: str(value) for name, value in asdict(self).items() if value and name != "action"}

    @classmethod
    def parse(cls, action: str, parameters: Mapping[str, str]) -> "Remedy | None":
        """Return the remedy of an action's name and `parameters`, or `None` for an action unknown to this version."""
        actor = parameters.get("actor", Actor.OPERATOR)
        if action not in Action.__members__ or actor not in Actor.__members__:
            return None
        named = {name: parameters.get(name, "") for name in ("peer", "user", "grant_id", "directory")}
        return cls(action=Action(action), actor=Actor(actor), **named)


class FederationError(Exception):
    """Base class of the exceptions that this package raises.

    `remedy` is the action that the last clause of the message describes, `None` if the message describes none.
    """

    def __init__(self, *args: object, remedy: Remedy | None = None) -> None:
        super().__init__(*args)
        self.remedy = remedy


class ConfigError(FederationError):
    """A setting is missing or wrong; `field` names it."""

    def __init__(self, field: str, problem: str, *, remedy: Remedy | None = None) -> None:
        super().__init__(f"{field}: {problem}", remedy=remedy)
        self.field = field


class InputError(FederationError):
    """A value from a user or a file is wrong; `field` names it."""

    def __init__(self, field: str, problem: str, *, remedy: Remedy | None = None) -> None:
        super().__init__(f"{field}: {problem}", remedy=remedy)
        self.field, self.problem = field, problem


class NotFoundError(FederationError):
    """A named object does not exist. The message suggests similar names, or, if there are none, gives `cure`."""

    def __init__(
        self, what: str, name: str, near: Iterable[str] = (), cure: str = "", *, remedy: Remedy | None = None
    ) -> None:
        near = tuple(near)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; {cure}" if cure else ""
        super().__init__(f"no {what} {name!r}{hint}", remedy=None if near else remedy)
        self.what, self.name, self.near = what, name, near


def unknown_grant(given: str, near: Iterable[str] = ()) -> NotFoundError:
    """Return the error for an unknown grant id."""
    remedy = Remedy(action=Action.LIST_GRANTS)
    return NotFoundError("grant", given, near, "list the grants to find its id", remedy=remedy)


def unknown_peer(given: str, near: Iterable[str] = ()) -> NotFoundError:
    """Return the error for an unknown peer name."""
    remedy = Remedy(action=Action.ADD_PEER)
    return NotFoundError("peer", given, near, "enroll this gateway at it with a token", remedy=remedy)


class ConflictError(FederationError):
    """The object already exists, or its state does not allow the operation."""


class GatewayUnavailableError(FederationError):
    """The gateway's admin socket does not answer."""


class LockedError(FederationError):
    """Another process serves this gateway or its database."""


class StoreError(FederationError):
    """A database operation failed, or the database holds invalid data."""


class SealError(FederationError):
    """A sealed key cannot be opened with the available seal key."""


class EnrollmentError(FederationError):
    """Enrollment or renewal was refused, or its response fails verification."""


@dataclass(frozen=True, slots=True)
class LineFault:
    """An invalid line of an input file: its number (from 1), the field and the problem."""

    line: int
    field: str
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.field}: {self.problem}"


class ImportFailedError(FederationError):
    """Input lines are invalid; nothing was imported. `faults` holds the first faults, `total` is the number of all."""

    def __init__(self, faults: Iterable[LineFault], total: int) -> None:
        self.faults, self.total = tuple(faults), total
        more = f" (and {total - len(self.faults)} more)" if total > len(self.faults) else ""
        super().__init__("; ".join(map(str, self.faults)) + more + "; nothing was imported")


class UnknownReferencesError(FederationError):
    """Rows or memberships name unknown users or teams; nothing was written."""

    def __init__(self, users: Iterable[str], teams: Iterable[str]) -> None:
        self.users, self.teams = frozenset(users), frozenset(teams)
        named = [*(f"user {name!r}" for name in sorted(self.users)), *(f"team {name!r}" for name in sorted(self.teams))]
        super().__init__(f"no {', no '.join(named[:10])}{' and more' if len(named) > 10 else ''}")  # noqa: PLR2004


class ChangesLostError(FederationError):
    """A reader of the change stream fell too far behind; all data it derived from the provider may be stale."""


class Reason(StrEnum):
    """The reason for a refused federation call: `ErrorInfo.reason` in the domain `federation.mosaic`."""

    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    """Identity extensions missing or malformed, or the certificate expired on a live connection."""
    GRANT_REVOKED = "GRANT_REVOKED"
    """The grant of the caller's certificate was revoked. Permanent."""
    GRANT_INVALID = "GRANT_INVALID"
    """Any other problem with the grant. Only the server's own records distinguish the cases."""
    SCOPE_VIOLATION = "SCOPE_VIOLATION"
    """The resource is not in the scope, or is excluded. Never used for a row."""
    ROW_NOT_FOUND = "ROW_NOT_FOUND"
    """The row does not exist, is not visible to the subject or is outside the scope; one answer for all three."""
    INVALID_REQUEST = "INVALID_REQUEST"
    """The request is malformed; the message names the field."""
    RATE_LIMITED = "RATE_LIMITED"
    """Too many calls under this grant. Carries the retry delay."""
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    """Local: the circuit to the peer is open. Carries the rest of the cooldown."""
    PEER_UNREACHABLE = "PEER_UNREACHABLE"
    """Local: no connection to the peer could be established."""
    PEER_TIMEOUT = "PEER_TIMEOUT"
    """Local: the deadline of the call passed."""
    INTERNAL = "INTERNAL"
    """Internal error of the serving gateway. The message holds only an incident id."""


CODE_OF: Final[Mapping[Reason, str]] = {
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
"""The gRPC status code name of each reason."""


class Refusal(FederationError):  # noqa: N818 - a refusal is an answer, not an error of the program
    """The refusal of a federation call.

    `retry_after_s` is sent as `RetryInfo`. `detail` is never sent: the refusing gateway records it to distinguish
    cases that look the same to the caller (`grant expired`, `unknown serial`).
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
    """Log an unexpected exception under a new incident id. Returns the id, the only detail a caller may see."""
    incident_id = secrets.token_hex(8)
    logger.error("incident %s in %s", incident_id, where, exc_info=fault)
    return incident_id

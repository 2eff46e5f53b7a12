"""Errors and instants in words for people."""

import re
from datetime import UTC, datetime
from typing import Final

from federation.errors import FederationError, Reason, Refusal

__all__ = ["ago", "clean", "duration", "explain", "plainly"]

CURES: Final = {
    Reason.CERTIFICATE_INVALID: "enroll again with a new token: mosaic federation peer add",
    Reason.GRANT_REVOKED: "the peer's operator took the grant back; ask them for a new one",
    Reason.GRANT_INVALID: "ask the peer's operator to look at the grant: mosaic federation grant list",
    Reason.SCOPE_VIOLATION: "what the grant opens: mosaic federation query capabilities",
    Reason.CIRCUIT_OPEN: "see: mosaic federation status",
    Reason.PEER_UNREACHABLE: "is the peer's gateway running? See: mosaic federation status",
    Reason.PEER_TIMEOUT: "the peer is slow or away; see: mosaic federation status",
}
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What could move a terminal's cursor, set its title or turn its text round. A peer's row may hold it."""
_UNCONNECTED: Final = re.compile(r"failed to connect to all addresses; last error: (?:[A-Z_]+: )?(?:ipv[46]:)?")
MINUTE: Final = 60
HOUR: Final = 3_600
DAY: Final = 86_400


def clean(text: str) -> str:
    """Return text with every control character made visible, so that a peer's words cannot steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def explain(error: FederationError) -> str:
    """Return the one line that tells a person what happened and what to do."""
    text = clean(plainly(str(error)))
    if not isinstance(error, Refusal):
        return text
    if error.retry_after_s is not None and "try again in" not in text:
        return f"{error.reason}: {text}; try again in {duration(error.retry_after_s)}"
    cure = CURES.get(error.reason)
    return f"{error.reason}: {text}; {cure}" if cure else f"{error.reason}: {text}"


def plainly(text: str) -> str:
    """Return what gRPC says of a connection that it could not make, in fewer words; other text as it is."""
    shorter = _UNCONNECTED.sub("cannot connect to ", " ".join(text.split()))
    return shorter.replace(": Failed to connect to remote host: ", ": ")


def duration(seconds: float) -> str:
    """Return a length of time in its largest fitting unit: `12 s`, `4 min`, `7 h`, `3 d`."""
    if seconds < 2 * MINUTE:
        return f"{max(0, round(seconds))} s"
    if seconds < 2 * HOUR:
        return f"{round(seconds / MINUTE)} min"
    if seconds < 2 * DAY:
        return f"{round(seconds / HOUR)} h"
    return f"{round(seconds / DAY)} d"


def ago(instant: datetime, now: datetime | None = None) -> str:
    """Return how long ago an instant was, or how far ahead it is."""
    seconds = ((now or datetime.now(UTC)) - instant).total_seconds()
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"

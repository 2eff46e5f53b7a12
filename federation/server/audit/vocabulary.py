"""The words of the audit: every verb and every outcome that an event may have. Pure."""

from typing import Final

from federation.errors import InputError
from federation.suggest import near_matches
from federation.telemetry.spans import OutcomeName
from federation.wire.verbs import VERBS

__all__ = ["AUDIT_VERBS", "MIXED", "OUTCOMES", "OWN", "check_outcome", "unknown_verb"]

MIXED: Final = "*"
"""The resource, peer or subject of refusals that are counted together and differ in it."""
OWN: Final = frozenset({"admin", "gateway"})
"""Sources that are no address: the operator, and the gateway by itself."""
OUTCOMES: Final = tuple(word.value for word in OutcomeName)
READS: Final = tuple(verb.name for verb in VERBS if verb.audited)
ACTS: Final = (
    *(verb.name for verb in VERBS if not verb.audited),
    "enroll",
    "renew",
    "grant.create",
    "grant.token",
    "grant.confirm",
    "grant.scope",
    "grant.revoke",
    "grant.effective",
    "user.remove",
    "rows.import",
    "peer.add",
    "peer.renew",
    "peer.rotate",
    "peer.reset",
    "peer.remove",
)
AUDIT_VERBS: Final = (*READS, *ACTS)


def check_outcome(outcome: str) -> None:
    """Raise `InputError` that names the outcomes there are, for any other word but an empty one."""
    if outcome and outcome not in OUTCOMES:
        raise InputError("outcome", _unknown(outcome, OUTCOMES))


def unknown_verb(verb: str) -> InputError:
    """Return the error of a verb that no event has; it names those there are."""
    return InputError("verb", _unknown(verb, AUDIT_VERBS))


def _unknown(word: str, known: tuple[str, ...]) -> str:
    near = near_matches(word, known, most=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no {word[:40]!r}; {hint}There are: {', '.join(known)}"

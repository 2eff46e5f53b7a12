"""The vocabulary of the audit: every verb and outcome of an event. Pure."""

from typing import Final

from federation.errors import InputError
from federation.suggest import hint
from federation.telemetry.spans import OutcomeName
from federation.wire.verbs import VERBS

MIXED: Final = "*"
"""The resource, peer or subject of an event that counts refusals with different values of it."""
OWN: Final = frozenset({"admin", "gateway"})
"""The sources that are not addresses: the operator, and the gateway itself."""
OUTCOMES: Final = tuple(outcome.value for outcome in OutcomeName)
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
    """Raise `InputError` that lists the known outcomes, unless `outcome` is empty or one of them."""
    if outcome and outcome not in OUTCOMES:
        raise InputError("outcome", _unknown(outcome, OUTCOMES))


def unknown_verb(verb: str) -> InputError:
    """Return the error for an unknown verb, which lists the known verbs."""
    return InputError("verb", _unknown(verb, AUDIT_VERBS))


def _unknown(value: str, known: tuple[str, ...]) -> str:
    meant = hint(value, known)
    return f"there is no {value[:40]!r}; {f'{meant} ' if meant else ''}There are: {', '.join(known)}"
